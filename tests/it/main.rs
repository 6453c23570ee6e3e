//! Owns every test on real parts: a real mount, a real Vault, moto's server, a real age tool.
//! One binary, so that the program is linked once.

mod support;
mod vault;
