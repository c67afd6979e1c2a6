//! Bodies of the QKD notifications: exact octets, and strictness.

use ike::wire::{
    NotifyType, WireError,
    qkd::{KeyIdFormat, MAX_KEY_IDS, QkdAdmission, QkdKeyIds, QkdSupported, QkdUnavailable},
};
use keys::KeyId;

use crate::samples;

fn is_syntax<T: std::fmt::Debug>(result: Result<T, WireError>) -> bool {
    result.is_err_and(|error| error.notify().kind == NotifyType::INVALID_SYNTAX)
}

#[test]
fn supported() {
    let supported = QkdSupported {
        qkd: true,
        hybrid: false,
        paper: true,
        sae: "sae-ü".parse().unwrap(),
    };
    let notify = supported.to_notify();
    assert_eq!(notify.kind, NotifyType::QKD_SUPPORTED);
    assert_eq!(hex::encode(&notify.data), "01057361652dc3bc");
    assert_eq!(QkdSupported::from_data(&notify.data), Ok(supported));
    // Flags of the future are no reason to fail.
    assert!(QkdSupported::from_data(b"\x01\xf9sae").unwrap().qkd);
    for bad in [
        &b""[..],
        b"\x01",
        b"\x01\x01",
        b"\x02\x01sae",
        b"\x00\x01sae",
        b"\x01\x01\xff",
        b"\x01\x01a\nb",
    ] {
        assert!(is_syntax(QkdSupported::from_data(bad)), "{bad:?}");
    }
    let long = |len: usize| QkdSupported::from_data(&[b"\x01\x01", &vec![b'a'; len][..]].concat());
    assert_eq!(long(255).unwrap().sae.as_str().len(), 255);
    assert!(is_syntax(long(256)));
}

#[test]
fn key_ids_in_binary() {
    let ids = samples::key_ids(7, KeyIdFormat::Binary);
    let notify = ids.to_notify();
    assert_eq!(notify.kind, NotifyType::QKD_KEY_IDS);
    assert_eq!(notify.data.len(), 1 + 7 * 16);
    assert_eq!(QkdKeyIds::from_data(&notify.data), Ok(ids));
    for len in 0..notify.data.len() {
        let read = QkdKeyIds::from_data(&notify.data[..len]);
        if len > 1 && len % 16 == 1 {
            assert_eq!(read.unwrap().ids.len(), len / 16);
        } else {
            assert!(is_syntax(read), "{len}");
        }
    }
}

#[test]
fn key_ids_in_json() {
    let ids = samples::key_ids(13, KeyIdFormat::Json);
    let data = ids.to_notify().data;
    // The size that Table II of the paper implies.
    assert_eq!(data.len(), 663);
    assert_eq!(QkdKeyIds::from_data(&data), Ok(ids));
    let one = QkdKeyIds {
        format: KeyIdFormat::Json,
        ids: vec![KeyId::from_octets([0xab; 16])],
    };
    assert_eq!(
        one.to_notify().data,
        br#"{"key_IDs":[{"key_ID":"abababab-abab-abab-abab-abababababab"}]}"#
    );
}

#[test]
fn key_ids_that_are_none() {
    let id = "abababab-abab-abab-abab-abababababab";
    for bad in [
        String::new(),
        "\u{2}".to_owned(),
        "{".to_owned(),
        "{}".to_owned(),
        r#"{"key_IDs":[]}"#.to_owned(),
        r#"{"key_IDs":[{}]}"#.to_owned(),
        r#"{"key_IDs":{"key_ID":1}}"#.to_owned(),
        r#"{"key_IDs":[{"key_ID":"abab"}]}"#.to_owned(),
        format!(r#"{{"key_IDs":[{{"key_ID":"{id}"}},{{"key_ID":"{id}"}}]}}"#),
        format!(r#"{{"key_IDs":[{{"key_ID":"{id}"}}]}}x"#),
        format!(r#"{{"key_IDs": [{{"key_ID":"{id}"}}]}}"#),
        format!(r#"{{"key_ID\u0073":[{{"key_ID":"{id}"}}]}}"#),
        format!(r#"{{"key_IDs":[{{"key_ID":"{id}","key":"AAAA"}}]}}"#),
        format!(r#"{{"key_IDs":[{{"key_ID":"{id}"}}],"more":1}}"#),
        format!(r#"{{"key_IDs":[{{"key_ID":"{id}"}}],"key_IDs":[]}}"#),
        "{\"key_IDs\":".to_owned() + &"[".repeat(5000),
    ] {
        assert!(is_syntax(QkdKeyIds::from_data(bad.as_bytes())), "{bad}");
    }
}

#[test]
fn number_of_key_ids() {
    let list = |number: u16, format| {
        let ids = (0..number)
            .map(|index| {
                let mut octets = [0; 16];
                octets[..2].copy_from_slice(&index.to_be_bytes());
                KeyId::from_octets(octets)
            })
            .collect();
        QkdKeyIds::from_data(&QkdKeyIds { format, ids }.to_notify().data)
    };
    let most = u16::try_from(MAX_KEY_IDS).unwrap();
    for format in [KeyIdFormat::Binary, KeyIdFormat::Json] {
        assert_eq!(list(most, format).unwrap().ids.len(), MAX_KEY_IDS);
        assert!(is_syntax(list(most + 1, format)));
        assert!(is_syntax(list(4 * most, format)));
        assert!(is_syntax(list(0, format)));
    }
}

#[test]
fn unavailable() {
    for (reason, octet) in [
        (QkdUnavailable::NoKeys, 1),
        (QkdUnavailable::KmsUnreachable, 2),
        (QkdUnavailable::Quota, 3),
        (QkdUnavailable::UnknownSae, 4),
    ] {
        let notify = reason.to_notify();
        assert!(notify.kind.is_error());
        assert_eq!(notify.data, [octet]);
        assert_eq!(QkdUnavailable::from_data(&notify.data), Ok(reason));
    }
    for bad in [&[][..], &[0], &[5], &[1, 0]] {
        assert!(is_syntax(QkdUnavailable::from_data(bad)), "{bad:?}");
    }
}

#[test]
fn admission() {
    let admission = QkdAdmission {
        tag_id: *b"tag-name",
        tag: *b"0123456789abcdef",
    };
    let data = admission.to_notify().data;
    assert_eq!(data, b"tag-name0123456789abcdef");
    assert_eq!(QkdAdmission::from_data(&data), Ok(admission));
    for len in 0..data.len() {
        assert!(is_syntax(QkdAdmission::from_data(&data[..len])), "{len}");
    }
    assert!(is_syntax(QkdAdmission::from_data(
        &[data, vec![0]].concat()
    )));
}
