//! Owns the few facts of an X.509 certificate that are needed here: for how long it was made, and whether it signed itself.
//! Does not know what is done with it; never checks a signature.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `version`, which only certificates of the oldest kind leave out.
const CONTEXT_0: u8 = 0xa0;

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
        let inner = text.trim_ascii().strip_prefix(BEGIN)?.strip_suffix(END)?;
        let base64: String = inner.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        Self::of_der(&STANDARD.decode(base64).ok()?)
    }

    /// RFC 5280, 4.1: `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version, serialNumber, signature, issuer,
    /// validity, subject, ...`.
    fn of_der(der: &[u8]) -> Option<Self> {
        let (whole, _) = element(der, SEQUENCE)?;
        let (rest, _) = element(whole, SEQUENCE)?;
        let rest = element(rest, CONTEXT_0).map_or(rest, |(_, rest)| rest);
        let (_serial, rest) = element(rest, INTEGER)?;
        let (_algorithm, rest) = element(rest, SEQUENCE)?;
        let (issuer, rest) = element(rest, SEQUENCE)?;
        let (validity, rest) = element(rest, SEQUENCE)?;
        let (subject, _) = element(rest, SEQUENCE)?;
        let (from, validity) = time(validity)?;
        let (to, _) = time(validity)?;
        Some(Self { validity: Duration::from_secs(to.checked_sub(from)?), is_root: issuer == subject })
    }
}

/// The content of the element of this kind that `der` begins with, and what follows it.
fn element(der: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (tag == kind).then(|| rest.split_at_checked(length)).flatten()
}

/// The time that `der` begins with, in seconds since 1970, and what follows it. RFC 5280, 4.1.2.5: always in UTC, with seconds.
fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let (text, century, rest) = match (element(der, UTC_TIME), element(der, GENERALIZED_TIME)) {
        // Two digits for the year: 50 and more are of the last century.
        (Some((text, rest)), _) => (text, if *text.first()? >= b'5' { "19" } else { "20" }, rest),
        (None, Some((text, rest))) => (text, "", rest),
        (None, None) => return None,
    };
    let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
    let part = |from: usize, length: usize| text.get(from..from + length);
    let spelled = format!(
        "{}-{}-{}T{}:{}:{}",
        part(0, 4)?,
        part(4, 2)?,
        part(6, 2)?,
        part(8, 2)?,
        part(10, 2)?,
        text.get(12..)?
    );
    let time = humantime::parse_rfc3339(&spelled).ok()?;
    Some((time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs(), rest))
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
        for text in ["", "canary", BEGIN, key, &format!("{key}\n{LEAF}"), &format!("{LEAF}\n{ROOT}")] {
            assert_eq!(Certificate::of_pem(text), None);
        }
        for end in 0..LEAF.len() {
            assert_eq!(Certificate::of_pem(&LEAF[..end]), None);
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let der = STANDARD.decode(LEAF.replace(BEGIN, "").replace(END, "").replace('\n', "")).unwrap();
        assert!(Certificate::of_der(&der).is_some());
        for end in 0..der.len() {
            let _ = Certificate::of_der(&der[..end]);
        }
        for at in 0..200 {
            for byte in [0, 0x30, 0x7f, 0x80, 0x83, 0xff] {
                let mut broken = der.clone();
                broken[at] = byte;
                let _ = Certificate::of_der(&broken);
            }
        }
    }
}
