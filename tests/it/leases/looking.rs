//! Owns the rule that looking makes nothing and opening makes one, tried with the programs that look and read.
//! Does not know a real server: that one's audit log is asked elsewhere.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::support::available;
use crate::support::lease_rig::LeaseRig;
use crate::support::mount::possible;
use crate::support::postgres::Postgres;

/// Longer than a page, so that a size that is a little wrong is seen.
fn filling() -> String {
    "x".repeat(10_000)
}

fn value(serial: usize) -> String {
    format!("canary-{}-{serial}", filling())
}

/// What a program wrote; `{}` in its arguments is `path`.
fn said(program: &str, arguments: &[&str], path: &Path) -> Vec<u8> {
    let path = path.to_str().unwrap();
    let arguments = arguments.iter().map(|argument| argument.replace("{}", path));
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {error}");
    output.stdout
}

fn is_there(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("not tried: there is no {program}");
    }
    there
}

#[test]
fn programs_that_look_make_nothing() {
    let Some(()) = available("mount", possible()) else { return };
    let rig = LeaseRig::mount(&["a", "b", "c"], "look");
    for _ in 0..2 {
        let listed = String::from_utf8(said("ls", &["-lR", "{}"], &rig.at)).unwrap();
        assert_eq!(listed.matches("-r-------- 1 ").count(), 9, "{listed}");
        assert_eq!(listed.matches(" 0 ").count(), 12, "sizes: {listed}");
        let found = String::from_utf8(said("find", &["{}", "-type", "f"], &rig.at)).unwrap();
        assert_eq!(found.lines().count(), 9);
        said("find", &["{}", "-type", "f", "-size", "+0", "-newer", "/etc/hostname"], &rig.at);
        said("du", &["-ab", "{}"], &rig.at);
        said("du", &["-s", "{}"], &rig.at);
        for file in rig.files() {
            said("stat", &["{}"], &file);
            said("test", &["-r", "{}"], &file);
        }
        for hidden in [".json", ".env", ".docker-env", ".meta"] {
            said("stat", &["{}"], &rig.path("a").join(hidden));
        }
        let completed = said("bash", &["-c", "compgen -f {}/a/; compgen -G '{}/*/pass*'"], &rig.at);
        assert!(String::from_utf8(completed).unwrap().contains("/a/password"));
        let meta = String::from_utf8(said("cat", &["{}"], &rig.path("a/.meta"))).unwrap();
        assert!(meta.contains("\"lease\":\"none yet\""), "{meta}");
        let removed = Command::new("rm").arg("-rf").arg(rig.path("a")).output().unwrap();
        assert!(!removed.status.success());
    }
    assert_eq!((rig.mint.counts(), rig.made(None)), ((0, 0, 0), 0));
    assert!(rig.leases.states().is_empty());
}

#[test]
fn programs_that_read_get_the_whole_value_of_a_file_whose_size_was_nothing() {
    let Some(()) = available("mount", possible()) else { return };
    let python = "import sys; p = sys.argv[1]; sys.stdout.buffer.write(open(p, 'rb').read())";
    let sized = "import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); n = os.fstat(f).st_size; \
                 sys.stdout.buffer.write(os.pread(f, n, 0)); assert os.pread(f, 1, n) == b''";
    let mapped = "import mmap, os, sys; f = os.open(sys.argv[1], os.O_RDONLY); n = os.fstat(f).st_size; \
                  sys.stdout.buffer.write(mmap.mmap(f, n, prot=mmap.PROT_READ)[:])";
    let node = "process.stdout.write(require('fs').readFileSync(process.argv[1]))";
    let programs: [(&str, &str, &[&str]); 12] = [
        ("cat", "cat", &["{}"]),
        ("head", "head", &["-c", "100000", "{}"]),
        ("tail", "tail", &["-c", "100000", "{}"]),
        ("dd", "dd", &["if={}", "status=none"]),
        ("bash", "bash", &["-c", "printf %s \"$(<{})\""]),
        ("grep", "grep", &["canary", "{}"]),
        ("sed", "sed", &["", "{}"]),
        ("openssl", "openssl", &["enc", "-base64", "-d", "-A", "-in", "{}"]),
        ("python", "python3", &["-c", python, "{}"]),
        ("python-fstat", "python3", &["-c", sized, "{}"]),
        ("python-mmap", "python3", &["-c", mapped, "{}"]),
        ("node", "node", &["-e", node, "{}"]),
    ];
    let roles: Vec<&str> = programs.iter().map(|(role, ..)| *role).collect();
    let rig = LeaseRig::mount(&roles, &filling());
    for (role, program, arguments) in programs {
        if !is_there(program) {
            continue;
        }
        let file = rig.path(role).join("password");
        assert_eq!(file.metadata().unwrap().len(), 0, "{role}");
        let read = said(program, arguments, &file);
        assert_eq!(rig.made(Some(role)), 1, "{role}");
        let value = value(rig.newest(role));
        // What openssl makes of it is compared with what it makes of a plain file; grep adds a line's end.
        if program == "openssl" {
            let plain = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(plain.path(), &value).unwrap();
            assert_eq!(read, said(program, arguments, plain.path()));
        } else {
            let read = String::from_utf8(read).unwrap();
            assert_eq!(read.trim_end().len(), value.len(), "{role}");
            assert!(read.trim_end() == value, "{role}");
        }
        assert_eq!(file.metadata().unwrap().len(), value.len() as u64, "{role}");
    }
}

#[test]
fn programs_in_java_and_go_get_the_whole_value_too() {
    let Some(()) = available("mount", possible()) else { return };
    let java = "import java.nio.file.*; public class Read { public static void main(String[] a) throws Exception \
                { System.out.write(Files.readAllBytes(Path.of(a[0]))); System.out.flush(); } }";
    let go = "package main\nimport \"os\"\n\
              func main() { b, e := os.ReadFile(os.Args[1]); if e != nil { panic(e) }; os.Stdout.Write(b) }\n";
    let rig = LeaseRig::mount(&["java", "go"], &filling());
    for (program, name, source) in [("java", "Read.java", java), ("go", "read.go", go)] {
        if !is_there(program) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join(name);
        std::fs::write(&script, source).unwrap();
        let script = script.to_str().unwrap();
        let arguments: &[&str] = if program == "go" { &["run", script, "{}"] } else { &[script, "{}"] };
        let file = rig.path(program).join("password");
        assert_eq!(file.metadata().unwrap().len(), 0);
        let read = String::from_utf8(said(program, arguments, &file)).unwrap();
        assert!(read == value(rig.newest(program)), "{program}: {} bytes", read.len());
    }
    assert_eq!(rig.made(None), rig.leases.states().len(), "one for each");
}

#[test]
fn programs_that_copy_get_every_value_and_make_one_for_each_role() {
    let Some(()) = available("mount", possible()) else { return };
    for (program, how) in [
        ("cp", "cp -r $0/. $1"),
        ("tar", "tar -C $0 -cf - . | tar -C $1 -xf -"),
        ("rsync", "rsync -r $0/ $1/"),
        (
            "python3",
            "python3 -c 'import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)' $0 $1",
        ),
    ] {
        if !is_there(program) {
            continue;
        }
        let rig = LeaseRig::mount(&["a", "b"], &filling());
        said("ls", &["-lR", "{}"], &rig.at);
        let copy = tempfile::tempdir().unwrap();
        let arguments = ["-c", how, "{}", copy.path().to_str().unwrap()];
        said("sh", &arguments, &rig.at);
        for role in ["a", "b"] {
            assert_eq!(rig.made(Some(role)), 1, "{program}");
            let value = value(rig.newest(role));
            for field in ["username", "password"] {
                let copied = copy.path().join(role).join(field);
                assert!(std::fs::read_to_string(copied).unwrap() == value, "{program}: {role}/{field}");
            }
        }
    }
}

/// As docs/semantics.md says: GNU tar does not open a file of no size that everybody may read.
#[test]
fn tar_opens_a_file_of_no_size_unless_everybody_may_read_it() {
    let Some(()) = available("mount", possible()) else { return };
    for (mode, made) in [(0o440, 1), (0o444, 0)] {
        let rig = LeaseRig::mount_with_mode(&["a"], "tar", mode);
        said("tar", &["-C", "{}", "-cf", "/dev/stdout", "."], &rig.at);
        assert_eq!(rig.made(Some("a")), made, "{mode:o}");
    }
}

#[test]
fn fstat_and_the_files_beside_are_exact_at_once() {
    let Some(()) = available("mount", possible()) else { return };
    let rig = LeaseRig::mount(&["a"], &filling());
    let (user, password) = (rig.path("a/username"), rig.path("a/password"));
    for file in [&user, &password] {
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
    let opened = File::open(&password).unwrap();
    let expected = value(0).len() as u64;
    let beside = user.metadata().unwrap();
    assert_eq!((opened.metadata().unwrap().len(), beside.len()), (expected, expected));
    assert_eq!(opened.metadata().unwrap().ino(), password.metadata().unwrap().ino());
}

#[test]
fn sendfile_right_after_the_open_gives_the_whole_value() {
    let Some(()) = available("mount", possible()) else { return };
    if !is_there("python3") {
        return;
    }
    let script = "import os, sys; f = os.open(sys.argv[1], os.O_RDONLY)\n\
                  while os.sendfile(1, f, None, 1 << 20): pass";
    // Sizes around the ends of pages, of which nine bytes are `canary-`, `-` and a digit.
    for size in [10, 4095, 4096, 4097, 4098, 8192, 8193, 10_000] {
        let rig = LeaseRig::mount(&["a"], &"x".repeat(size - 9));
        let file = rig.path("a/password");
        assert_eq!(file.metadata().unwrap().len(), 0);
        let sent = String::from_utf8(said("python3", &["-c", script, "{}"], &file)).unwrap();
        assert_eq!(sent.len(), size);
        assert!(sent == format!("canary-{}-0", "x".repeat(size - 9)));
        assert_eq!(file.metadata().unwrap().len(), size as u64);
        let serial = rig.path("a/serial");
        assert_eq!(said("python3", &["-c", script, "{}"], &serial), b"0");
        assert_eq!(serial.metadata().unwrap().len(), 1);
    }
}

#[test]
fn an_open_file_keeps_its_lease_and_the_predecessor_is_read_while_it_lives() {
    let Some(()) = available("mount", possible()) else { return };
    let rig = LeaseRig::mount(&["a"], &filling());
    let file = rig.path("a/password");
    let opened = File::open(&file).unwrap();
    assert!(!rig.path("a/.previous").exists());
    rig.runtime.block_on(rig.leases.replace(&rig.of("a"))).unwrap();
    assert!(std::fs::read_to_string(rig.path("a/.previous/password")).unwrap() == value(0));
    assert!(std::fs::read_to_string(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap() == value(1));
    assert!(std::io::read_to_string(&opened).unwrap() == value(0));
    let another = std::thread::spawn(move || std::fs::read_to_string(file).unwrap());
    assert!(another.join().unwrap() == value(1));
    let listed = std::fs::read_dir(rig.path("a")).unwrap().count();
    assert_eq!(listed, 3, "it is not listed");
    rig.runtime.block_on(rig.leases.revoke(&rig.of("a"))).unwrap();
    assert!(!rig.path("a/.previous").exists());
}

/// psql looks at a passfile before it opens it: it must be a file that nobody else can read.
#[test]
fn psql_finds_its_password_in_a_file_that_was_never_opened() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(postgres) = available("postgres", Postgres::start()) else { return };
    let Some(psql) = available("postgres", postgres.program("psql")) else { return };
    // The value of the file is `canary-h:*:*:reader:word-0`: a line of a passfile for the host `canary-h`.
    let rig = LeaseRig::mount(&["app"], "h:*:*:reader:word");
    postgres.superuser().batch_execute("CREATE ROLE reader LOGIN PASSWORD 'word-0'").unwrap();
    let to = format!("host=canary-h hostaddr=127.0.0.1 port={} user=reader dbname=postgres", postgres.port);
    let mut command = Command::new(psql);
    command.args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "-c", "SELECT 'in'", &to]);
    let output = command.env("PGPASSFILE", rig.path("app/password")).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "in\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(rig.made(None), 1);
}
