//! Owns the check that the shipped units leave the service in the machine's own mount namespace.
//! Does not know whether the service works: booted.rs tries that in a booted systemd.
#![allow(clippy::expect_used)]

/// Settings of `[Service]` that were looked up in systemd.exec(5) and systemd.service(5): none of them makes a mount
/// namespace. Many that harden a service do, some by implication, and the mount would then be seen by nobody else.
const HARMLESS: [&str; 30] = [
    "Type",
    "ExecStart",
    "ExecReload",
    "ExecStop",
    "RemainAfterExit",
    "FileDescriptorStoreMax",
    "Environment",
    "KillMode",
    "WatchdogSec",
    "WatchdogSignal",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "TimeoutStopSec",
    "LimitCORE",
    "MemorySwapMax",
    "LimitNOFILE",
    "OOMScoreAdjust",
    "OOMPolicy",
    "TasksMax",
    "NoNewPrivileges",
    "CapabilityBoundingSet",
    "RestrictAddressFamilies",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "LockPersonality",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "UMask",
];

#[test]
fn the_units_make_no_mount_namespace() {
    for unit in [
        include_str!("../../systemd/secretfs@.service"),
        include_str!("../../systemd/secretfs-clean@.service"),
    ] {
        let service = unit.split("\n[").find(|section| section.starts_with("Service]")).expect("a [Service]");
        let settings =
            service.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        let names: Vec<&str> = settings.map(|(name, _)| name).collect();
        assert!(names.contains(&"Type"), "{names:?}");
        for name in names {
            assert!(
                HARMLESS.contains(&name),
                "{name}: see whether it makes a mount namespace, then add it to HARMLESS"
            );
        }
    }
}
