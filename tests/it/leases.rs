//! Owns what secrets made on demand promise on a real mount.
//! Does not know how the book of leases decides; its own tests are beside it.

mod looking;
