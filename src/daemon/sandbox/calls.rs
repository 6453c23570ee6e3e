//! Owns the list of the system calls that a worker never makes, and their refusal (seccomp(2)).
//! Does not know files; a filter of system calls sees numbers, not names.
//!
//! It is a list of what is refused, not of what is allowed. What the libraries of three backends, a TLS library, the C
//! library's name lookup and tokio call differs between their versions, and a call that is missing in a list of what is allowed
//! is found on the day when a server does something unusual, by a mount that answers nothing. So the list names what leads out
//! of the process: other programs, other processes, other users, mounts, the kernel itself, the rights on files. Calls that are
//! newer than the list look as if this kernel did not have them; libraries are made for that.
//!
//! What is refused gives EPERM, and the thread goes on: a library that tries and can do without must not end the mount.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::c_long;
use rustix::io::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// Refused whatever the arguments.
const REFUSED: &[c_long] = &[
    // other programs
    libc::SYS_execve,
    libc::SYS_execveat,
    // other processes: their memory, descriptors, signals, and how they are scheduled
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setpriority,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // other users
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // rights on files: Landlock leaves those to the owner of a file, and root owns most
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
    libc::SYS_truncate,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // mounts and namespaces
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    // large and often broken parts of the kernel that nothing here uses
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_vmsplice,
    // the machine
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

/// Older calls for the same, which only this processor has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

// The same on every processor, and not in every libc.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
/// The newest call that this list has looked at. What comes after it does not exist for us, and neither does what x86_64 calls
/// x32: the same calls again, by numbers from 0x4000_0000 on, past any list.
const NEWEST: c_long = REMOVEXATTRAT;

/// The families of sockets that a worker uses: sockets of the machine, the two internets, and the kernel's table of addresses,
/// by which the C library sorts what it has looked up.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Namespaces that clone(2) could make.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Refuses the calls to this thread, and to those that it will start.
pub(super) fn refuse() -> Result<(), String> {
    let rules = rules().map_err(|error| error.to_string())?;
    let permitted = SeccompAction::Errno(number_of(Errno::PERM));
    let processor = TargetArch::try_from(ARCH).map_err(|error| error.to_string())?;
    // A call in the manner of another processor (32 bit) ends the process: no part of it makes one.
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, permitted, processor);
    let refused: BpfProgram = filter.and_then(TryInto::try_into).map_err(|error| error.to_string())?;
    apply_filter(&unknown()).map_err(|error| error.to_string())?;
    apply_filter(&refused).map_err(|error| error.to_string())
}

/// What is refused, by the number of the call; of several rules for one call, each refuses for itself.
fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules = BTreeMap::new();
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        rules.insert(*call, vec![]);
    }
    // The arguments that decide are 32 bits wide.
    let when = |argument, how, value: libc::c_int| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, u64::from(value.cast_unsigned()))
    };
    let bits = |mask: libc::c_int| SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
    // A thread may be started, a process may not. clone3, which hides its flags in memory, is `unknown`.
    let process = SeccompRule::new(vec![when(0, bits(libc::CLONE_THREAD), 0)?])?;
    let namespaces =
        NAMESPACES.iter().map(|namespace| SeccompRule::new(vec![when(0, bits(*namespace), *namespace)?]));
    rules.insert(
        libc::SYS_clone,
        std::iter::once(Ok(process)).chain(namespaces).collect::<Result<Vec<_>, _>>()?,
    );
    let strange = FAMILIES.iter().map(|family| when(0, SeccompCmpOp::Ne, *family));
    let strange = SeccompRule::new(strange.collect::<Result<Vec<_>, _>>()?)?;
    let table = SeccompRule::new(vec![
        when(0, SeccompCmpOp::Eq, libc::AF_NETLINK)?,
        when(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE)?,
    ])?;
    rules.insert(libc::SYS_socket, vec![strange, table]);
    // A panic that aborts sends a signal to its own process.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![when(0, SeccompCmpOp::Ne, own)?])?]);
    // The limits of other processes can end them; 0 is this one.
    let others = SeccompRule::new(vec![when(0, SeccompCmpOp::Ne, 0)?])?;
    rules.insert(libc::SYS_prlimit64, vec![others]);
    // Memory that was closed stays closed, to a chosen process too.
    let open = SeccompRule::new(vec![
        when(0, SeccompCmpOp::Eq, libc::PR_SET_DUMPABLE)?,
        when(1, SeccompCmpOp::Ne, 0)?,
    ])?;
    let tracer = SeccompRule::new(vec![when(0, SeccompCmpOp::Eq, libc::PR_SET_PTRACER)?])?;
    rules.insert(libc::SYS_prctl, vec![open, tracer]);
    // Keys that are typed into a terminal, which a shell would read.
    let typed = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        SeccompRule::new(vec![SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?])
    });
    rules.insert(libc::SYS_ioctl, typed.into_iter().collect::<Result<Vec<_>, _>>()?);
    Ok(rules)
}

/// A filter that says of some calls that this kernel does not have them: clone3(2), so that the C library uses clone(2), and
/// whatever is newer than the list. It compares numbers, which the list of rules cannot.
fn unknown() -> BpfProgram {
    // linux/bpf_common.h: a word at a fixed place, jumps, an end with an answer.
    let (load, equal, greater, answer) = (0x20, 0x15, 0x25, 0x06);
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    let number = |call: c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let no_such_call = libc::SECCOMP_RET_ERRNO | number_of(Errno::NOSYS);
    vec![
        // struct seccomp_data begins with the number of the call.
        step(load, 0, 0, 0),
        step(equal, number(libc::SYS_clone3), 1, 0),
        step(greater, number(NEWEST), 0, 1),
        step(answer, no_such_call, 0, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]
}

fn number_of(error: Errno) -> u32 {
    error.raw_os_error().cast_unsigned()
}
