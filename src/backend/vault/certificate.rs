//! Owns the few facts of an X.509 certificate that are needed here: for how long it was made, and whether it signed itself.
//! Does not know what is done with it; never checks a signature.

use std::time::Duration;

use x509_cert::der::DecodePem;

/// What is known of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Certificate {
    /// From `notBefore` to `notAfter`.
    pub(super) validity: Duration,
    /// Issuer and subject are the same: a root, which a server does not send (RFC 8446, 4.4.2: a root may be omitted).
    pub(super) is_root: bool,
}

impl Certificate {
    /// Of a text that is one certificate in PEM and nothing besides; `None` for everything else.
    pub(super) fn of_pem(text: &str) -> Option<Self> {
        let facts = x509_cert::Certificate::from_pem(text.trim_ascii()).ok()?.tbs_certificate;
        let (from, to) = (facts.validity.not_before, facts.validity.not_after);
        let validity = to.to_unix_duration().checked_sub(from.to_unix_duration())?;
        Some(Self { validity, is_root: facts.issuer == facts.subject })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
pub(super) mod tests {
    use super::*;

    /// A root of Vault 1.21 (`pki/root/generate/internal`, `ttl=8760h`).
    pub(in super::super) const ROOT: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIDIDCCAgigAwIBAgIULjh5uhdMRLjNO9krykubYwZFP84wDQYJKoZIhvcNAQEL\n\
        BQAwDzENMAsGA1UEAxMEcm9vdDAeFw0yNjExMjUwMzExNDNaFw0yNzExMjUwMzEy\n\
        MTNaMA8xDTALBgNVBAMTBHJvb3QwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEK\n\
        AoIBAQDINqf2UKembNsgORUzkL4fwPqHMBfvX3oFYdvxpkG0LYkV3i2P6l/Fvl5n\n\
        VBMy0FAwM8aZ/z8Z00Y56P+rcmD9plgQ1aJ085T5hNEp3nNNwX8JVL2KnALd1UoY\n\
        gngJwkRXVjAUOa2j2Wq0mqvnqU28aI9Y+JUYPMrvJ3GAp9GbCmYIODfSpLlNaFkd\n\
        ReisAnO5MQqeI0axsMEUxP21WyxXKQG+mgQHoX7L1WHH0KN3WHkcYyjVItLxiUIx\n\
        HixqDUq6lL/+/4jEim+K1Tdcj38OQ4VmUFxDmsFJCAMIMCjMNdH1BqhGZ5WWmzlW\n\
        yWbBJgxe+t4gyJXZe6XWDYaW56RdAgMBAAGjdDByMA4GA1UdDwEB/wQEAwIBBjAP\n\
        BgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBTFQq37qLcGmfT1L1XeSiehc7lWCzAf\n\
        BgNVHSMEGDAWgBTFQq37qLcGmfT1L1XeSiehc7lWCzAPBgNVHREECDAGggRyb290\n\
        MA0GCSqGSIb3DQEBCwUAA4IBAQBb/oXFITt9J/3f7b+wPqdeY0A9H2LCDu8uXAfN\n\
        iggfBojjYNv8WJsZn7t5Y5HPwnUfgJ8LXbFBWewOCMTQjZeSXya5CkPM2wLo7D01\n\
        kWYXslFBy0lPg84uWFz2lc0BO9SHPcC99o+BHmRYT0IszZiPFN5PhrnOiaGCVcb3\n\
        B9m0ghLoxrHs3KM9pSaXnPo2Q9H9gdKuvOj/SYnR+Hrfs/pXGWAz3xGNqYn+b/p2\n\
        /bN4f5YI4rLex4pWYXt4QE7YCFRJAO2YTytJUjEUi077eyw5c/oeqB7+pxd+WETx\n\
        q8OgBxgDXCCt2fkx7NgZOLKu1LlXuG44zXoHLe6Gk/Kcf6t1\n\
        -----END CERTIFICATE-----";
    /// What it signed (`pki/issue/web`, a role of 60 seconds, made valid 30 seconds ago).
    pub(in super::super) const LEAF: &str = "-----BEGIN CERTIFICATE-----\n\
        MIICbzCCAVegAwIBAgIUP9Gk2trm1H+mDZ+9wZkF1fpbeCwwDQYJKoZIhvcNAQEL\n\
        BQAwDzENMAsGA1UEAxMEcm9vdDAeFw0yNjExMjUwMzE5MDlaFw0yNjExMjUwMzIw\n\
        MzlaMBQxEjAQBgNVBAMTCWEuZXhhbXBsZTBZMBMGByqGSM49AgEGCCqGSM49AwEH\n\
        A0IABAWLChOrTZiDY/hYN8cxusSvJFaxHLu8PHnIVLPVo1bhKPJg3IId2Zz1Pnxa\n\
        /5djENUYOMn6Nw/volp15piIjS2jgYgwgYUwDgYDVR0PAQH/BAQDAgOoMB0GA1Ud\n\
        JQQWMBQGCCsGAQUFBwMBBggrBgEFBQcDAjAdBgNVHQ4EFgQUsbMipTX7KrcDOmUv\n\
        H45qOyFz2i4wHwYDVR0jBBgwFoAUxUKt+6i3Bpn09S9V3konoXO5VgswFAYDVR0R\n\
        BA0wC4IJYS5leGFtcGxlMA0GCSqGSIb3DQEBCwUAA4IBAQC7U5NvErMnhiDBR/xc\n\
        rfozAeSLj6O3S/TZvyRAfXWWaWfFwcNc0GlemUhSw8m1nzYPVu5dv8Nnx4xwZPKY\n\
        UOS4Ud8kol1DbNe/QF6TGcHHoTFXPBMRlISQwSOx3UF9TQJWMKchaUnhypYLrK3P\n\
        l4YABfjn/XQqKV0aHJoRIP2nArt5paEOkeTvZiz0SRe38hfcSPWb6A80uKnD9qr/\n\
        RGl/jt6y51bISZi3pNzLVd1jvBne+5jff2WAfD1MTf4Zyqr15yEw9oCP576VaV2S\n\
        Sshc7P2gsJYNqvKWGlWrehYbPR2MUTHXoSPPggHznt2Bk+oFYumXrY1iFBEB1Jlc\n\
        SA8F\n\
        -----END CERTIFICATE-----";

    #[test]
    fn the_validity_and_the_root_are_known() {
        let leaf = Certificate::of_pem(LEAF).unwrap();
        assert_eq!(leaf, Certificate { validity: Duration::from_secs(90), is_root: false });
        let root = Certificate::of_pem(ROOT).unwrap();
        assert_eq!(root, Certificate { validity: Duration::from_secs(8760 * 3600 + 30), is_root: true });
        assert_eq!(Certificate::of_pem(&format!("\n{LEAF}\n\n")), Some(leaf));
    }

    #[test]
    fn what_is_not_one_certificate_is_none() {
        let key = "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----";
        for text in ["", "canary", key, &format!("{key}\n{LEAF}"), &format!("{LEAF}\n{ROOT}")] {
            assert_eq!(Certificate::of_pem(text), None);
        }
        for end in 0..LEAF.len() {
            assert_eq!(Certificate::of_pem(&LEAF[..end]), None);
        }
    }
}
