//! Owns giving up every capability(7), from every set that one could come back from.
//! Does not know what any of them was good for.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Gives up all of them.
pub(super) fn drop_all() -> Result<(), String> {
    // The ambient set goes with the inheritable one, too; a kernel without it has nothing to clear.
    let _ = clear_ambient_capability_set();
    let bounds = empty_bounds();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(|error| error.to_string())?;
    let left = capabilities(None).map_err(|error| error.to_string())?;
    if !(left.effective | left.permitted | left.inheritable).is_empty() {
        return Err("the system keeps some".to_owned());
    }
    bounds
}

/// The limit on what running a program can give. Only who has CAP_SETPCAP may lower it; who has not runs no program with more
/// rights either (no_new_privs), so the limit stays as it is.
fn empty_bounds() -> Result<(), String> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) => match remove_capability_from_bounding_set(one) {
                Err(Errno::PERM) => return Ok(()),
                done => done.map_err(|error| format!("the bounding set: {error}"))?,
            },
            Ok(false) => {}
            // Beyond the last one that this kernel knows.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
