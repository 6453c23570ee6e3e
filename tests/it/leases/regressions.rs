//! Owns promises about leases that other agents were found to break, each with the issue that tells of it.
//! Does not know how those agents work.
