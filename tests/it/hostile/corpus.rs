//! Owns the corpus of hostile names: every trick with a path, a URL, a terminal, a shell or Unicode that we know of.
//! Does not know what is done with them.

/// Every name, each once. Some hold `/` or NUL, some are no UTF-8, one is empty.
pub fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut add = |name: &[u8]| {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_vec());
        }
    };
    for name in CLIMBING.iter().chain(URLS).chain(SHELLS).chain(OURS).chain(UNICODE) {
        add(name.as_bytes());
    }
    // Every control character, alone and inside.
    for byte in (0..0x20).chain([0x7f]) {
        add(&[byte]);
        add(&[b'a', byte, b'b']);
    }
    for c in ['\u{80}', '\u{85}', '\u{9b}', '\u{9f}'] {
        add(format!("a{c}b").as_bytes());
    }
    // Terminal escapes, and a forged line of a log.
    for name in [
        "\x1b[2J",
        "\x1b]0;title\x07",
        "a\r\nERROR forged",
        "a\n2026-01-01T00:00:00Z ERROR forged",
        "\u{9b}2J",
    ] {
        add(name.as_bytes());
    }
    // Lengths around what a file name may have.
    for length in [233, 234, 254, 255, 256, 257, 1000, 4096] {
        add("n".repeat(length).as_bytes());
    }
    for (unit, times) in [
        ("é", 127),
        ("é", 128),
        ("🔑", 63),
        ("🔑", 64),
        ("/", 300),
        ("%2F", 85),
        ("%2F", 86),
        ("..", 128),
        ("%~", 128),
    ] {
        add(unit.repeat(times).as_bytes());
    }
    // Two long names that differ in the last letter only.
    add(("x".repeat(400) + "1").as_bytes());
    add(("x".repeat(400) + "2").as_bytes());
    for bytes in INVALID {
        add(bytes);
    }
    names
}

/// The names that are text, which is all that JSON can carry.
pub fn texts() -> Vec<String> {
    names().into_iter().filter_map(|name| String::from_utf8(name).ok()).collect()
}

#[rustfmt::skip] // a table, not code
const CLIMBING: &[&str] = &[
    "", ".", "..", "...", "....", "/", "//", "../", "/..", "../..", "../../sys/mounts",
    "../../../../../../etc/passwd", "..//..//sys", "./.", "a/../b", "a/..", "a/.", "a//b", "/a", "a/", "a//", "..\\",
    "..\\..\\sys\\mounts", "\\..\\", "%2e", "%2e%2e", "%2E%2E", "%2e.", ".%2e", "%2e%2e%2f", "%2e%2e/", "..%2f",
    "..%2F", "..%2f..%2fsys%2fmounts", "..%2F..%2Fsys%2Fmounts", "%2f", "%2F", "%2f%2e%2e", "%5c", "..%5c",
    "..%5c..%5csys", "%252e%252e", "%252e%252e%252f", "..%252f", "..%252F..%252Fsys", "%25252e", "%c0%ae%c0%ae",
    "%c0%af", "..%c0%af", "%e0%80%ae", "%u002e%u002e", "%00", "%00..", "..%00", "a%00b", "%0a", "%0d%0a",
    "%0d%0aX-Vault-Token: x", "%20", "%09", "%7f", "%", "%%", "%2", "%zz", "%2g", "%25", "%2525", "..;", "..;/",
    ";/..", ".;a", "..?", "..#", ".. ", " ..", ". .", ". ", " .", "..\u{200b}", "\u{200b}..", "．．", "。。", "‥", "…",
    "․․", "∕", "⁄", "／", "＼", "..∕sys", "．．／sys", "..／..／sys", "%EF%BC%8E%EF%BC%8E", "%e2%88%95", "sys", "sys/mounts",
    "sys/raw", "auth/token/create", "identity", "cubbyhole", "v1", "/v1/sys/mounts", "secret", "secret/data",
    "..secret",
];

#[rustfmt::skip] // a table, not code
const URLS: &[&str] = &[
    "?", "?list=true", "a?list=true", "?list=true&x=", "a?version=1", "#", "a#b", "#/../sys", ";", "a;b",
    "a;list=true", "&", "a&b", "=", "a=b", "@", "user@host", "user:password@host", ":", "a:b", "::",
    "http://127.0.0.1:1/", "https:example", "file:///etc/passwd", "//evil.example/x", "\\\\evil\\share", "+", "a+b",
    "*", "**", "~", "~root", "~/x", "%7E", "%7e", "$", "!", "'", "\"", "(", ")", ",", "[", "]", "[::1]", "{", "}",
    "{a,b}", "<", ">", "<script>alert(1)</script>", "|", "^", "`", "a%2Fb", "a%2fb", "a%3Flist%3Dtrue", "a%23b",
    "a b", "data", "metadata", "data/", "delete", "undelete", "destroy", "config", "subkeys", "data/data",
    "detailed-metadata",
];

#[rustfmt::skip] // a table, not code
const SHELLS: &[&str] = &[
    " ", "  ", " a", "a ", "\u{a0}", "-", "--", "-rf", "--help", "-rf *", "$(id)", "`id`", "${HOME}", "$HOME",
    "; rm -rf /", "&& id", "| id", "a'b", "a\"b", "'", "''", "\"\"", "\\", "\\n", "\\0", "\\x00", "\\u002e", "a\\b",
    "CON", "con", "NUL", "nul.txt", "PRN", "AUX", "COM1", "LPT1", "C:", "C:\\x", "a:$DATA", "a.", "a..", "a..b",
    "lost+found", ".git", ".ssh", ".fuse_hidden0000", ".nfs0001", "core", "%s%s%s%n", "%n", "{}", "{0}", "{{7*7}}",
    "null", "true", "0", "-1", "NaN", "undefined", "__proto__", "constructor", "=cmd|' /C calc'!A0", "a\tb",
];

/// What we reserve, and what looks like our own encoding.
#[rustfmt::skip] // a table, not code
const OURS: &[&str] = &[
    ".json", ".env", ".docker-env", ".meta", ".versions", ".previous", ".JSON", ".json/", ".hidden", "%2Ejson", "%2ejson",
    "%252Ejson", "%2E", "%2E.", "%2E%2E", "%~", "%~~", "%25~", "a%~b", "a%~0123456789abcdef0123456789abcdef",
    "%~0123456789abcdef0123456789abcdef", "%~0123456789ABCDEF0123456789ABCDEF", "value", ".value", "$base64",
    "explain", "user.secretfs.explain",
];

#[rustfmt::skip] // a table, not code
const UNICODE: &[&str] = &[
    // composed and decomposed
    "\u{e9}", "e\u{301}", "\u{212b}", "\u{c5}", "A\u{30a}", "\u{fb01}", "fi", "\u{1e9b}\u{323}", "\u{ac00}",
    "\u{1100}\u{1161}",
    // direction, width, invisible
    "\u{202e}nosj.", "a\u{202d}b", "\u{2066}a\u{2069}", "\u{200e}", "\u{200f}", "\u{200b}", "\u{200c}", "\u{200d}",
    "\u{2060}", "\u{feff}", "\u{feff}a", "\u{ad}", "a\u{ad}b", "\u{2028}", "\u{2029}", "\u{3000}", "\u{180e}",
    "\u{115f}", "\u{3164}", "\u{ffa0}", "\u{e0001}", "\u{e0041}", "\u{fe0f}",
    // homoglyphs, case, private, unassigned, non-characters
    "аpi-key", "api‐key", "ﬀ", "İ", "ı", "ß", "ẞ", "K", "Ω", "\u{e000}", "\u{f8ff}", "\u{10ffff}", "\u{fffe}",
    "\u{ffff}", "\u{fdd0}", "\u{fffd}", "\u{378}",
    // many and large
    "🔑", "👩‍👩‍👧‍👦", "🇦🇶", "☠️", "a\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}", "ключ", "密钥",
    "مفتاح", "मंत्र", "𝖆𝖕𝖎", "﷽", "Z̸͝a̷lgo",
];

#[rustfmt::skip] // a table, not code
const INVALID: &[&[u8]] = &[
    b"\xff", b"\xfe\xff", b"\xc0\xae\xc0\xae", b"\xc0\xaf", b"..\xc0\xaf", b"\xe0\x80\xae", b"\xed\xa0\x80",
    b"\xed\xb0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"a\x80b", b"\xe2\x82", b"caf\xe9", b"\xc3(",
    b"\xff/\xff", b"..\xff", b"%\xff",
];
