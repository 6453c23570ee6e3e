//! Owns system calls by their bare numbers, for those that are refused and that no safe crate makes.
//! Does not know why they are refused. Every argument is -1, which none of these calls can use: without the sandbox each is an
//! error that says so.
#![allow(unsafe_code)]

use std::io;

use super::attempts::errno;

/// Calls that do nothing when all their arguments are -1.
pub const CALLS: &[(&str, libc::c_long)] = &[
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("process_madvise", libc::SYS_process_madvise),
    ("process_mrelease", libc::SYS_process_mrelease),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("tkill", libc::SYS_tkill),
    ("tgkill", libc::SYS_tgkill),
    ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo),
    ("setpriority", libc::SYS_setpriority),
    ("sched_setscheduler", libc::SYS_sched_setscheduler),
    ("sched_setaffinity", libc::SYS_sched_setaffinity),
    ("ioprio_set", libc::SYS_ioprio_set),
    ("prlimit64", libc::SYS_prlimit64),
    ("execveat", libc::SYS_execveat),
    ("setgid", libc::SYS_setgid),
    ("setgroups", libc::SYS_setgroups),
    ("capset", libc::SYS_capset),
    ("fchmod", libc::SYS_fchmod),
    ("fchmodat2", 452),
    ("fchown", libc::SYS_fchown),
    ("setxattr", libc::SYS_setxattr),
    ("fsetxattr", libc::SYS_fsetxattr),
    ("setxattrat", 463),
    ("removexattr", libc::SYS_removexattr),
    ("truncate", libc::SYS_truncate),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fspick", libc::SYS_fspick),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("setns", libc::SYS_setns),
    ("unshare", libc::SYS_unshare),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("keyctl", libc::SYS_keyctl),
    ("personality", libc::SYS_personality),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("reboot", libc::SYS_reboot),
    ("swapon", libc::SYS_swapon),
    ("acct", libc::SYS_acct),
    ("syslog", libc::SYS_syslog),
    ("sethostname", libc::SYS_sethostname),
    ("clock_settime", libc::SYS_clock_settime),
    ("adjtimex", libc::SYS_adjtimex),
    ("socket", libc::SYS_socket),
    ("shmget", libc::SYS_shmget),
    ("mq_open", libc::SYS_mq_open),
];

/// Makes the call, or one with arguments of its own; what the kernel said.
pub fn attempt(name: &str) -> String {
    let nothing = [usize::MAX; 6];
    let with = |arguments: &[usize]| {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        all
    };
    let flags = |flags: libc::c_int| usize::try_from(flags).unwrap();
    let (number, arguments) = match name {
        "clone3" => (libc::SYS_clone3, with(&[0, 0])),
        "open_tree_attr" => (467, nothing),
        // Neither makes anything: threads and what shares handlers of signals must share memory, which these do not ask for.
        "clone into a namespace" => (libc::SYS_clone, with(&[flags(libc::CLONE_THREAD | libc::CLONE_NEWNS)])),
        "clone a process" => (libc::SYS_clone, with(&[flags(libc::CLONE_SIGHAND)])),
        "type into a terminal" => {
            (libc::SYS_ioctl, with(&[usize::MAX, usize::try_from(libc::TIOCSTI).unwrap(), 0]))
        }
        _ => (CALLS.iter().find(|(known, _)| *known == name).unwrap().1, nothing),
    };
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no argument is an address that exists, so the kernel reads and writes nothing of ours; none of the calls makes a
    // process, as each has an argument that it must refuse.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { errno(&io::Error::last_os_error()) } else { "done".to_owned() }
}
