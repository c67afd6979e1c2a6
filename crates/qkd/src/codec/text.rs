//! JSON strings that hold secrets, and text from outside that ends up in logs.

use std::{borrow::Cow, ops::Deref};

use zeroize::Zeroizing;

/// The octets of a JSON string, borrowed when it has no escapes, wiped when copied.
pub(super) enum Octets<'a> {
    Borrowed(&'a [u8]),
    Unescaped(Zeroizing<Vec<u8>>),
}

impl Deref for Octets<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(octets) => octets,
            Self::Unescaped(octets) => octets,
        }
    }
}

/// The content of the raw JSON value `json` when it is a string of ASCII characters.
pub(super) fn unescape(json: &str) -> Option<Octets<'_>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    if !inner.contains(&b'\\') {
        return Some(Octets::Borrowed(inner));
    }
    // Unescaping only shortens, so this never grows and leaves no copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(inner.len()));
    let mut rest = inner.iter().copied();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            out.push(octet);
            continue;
        }
        match rest.next()? {
            // Base64 has no other character that may be escaped in short form.
            b'/' => out.push(b'/'),
            b'u' => {
                let mut code = 0u32;
                for _ in 0..4 {
                    code = code * 16 + char::from(rest.next()?).to_digit(16)?;
                }
                out.push(u8::try_from(code).ok().filter(u8::is_ascii)?);
            }
            _ => return None,
        }
    }
    Some(Octets::Unescaped(out))
}

/// Text of a KMS made fit for a log line: no control characters, at most 200 characters.
pub(super) fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let clean: Cow<'_, str> = if text.chars().any(char::is_control) {
        Cow::Owned(
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    };
    let mut out: String = clean.chars().take(LONGEST).collect();
    if out.len() < clean.len() {
        out.push('…');
    }
    out
}
