//! The codec against the examples of the standard, and against everything else.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keys::{KeyId, SaeId};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const A: &str = "bc490419-7d60-487f-adc1-4ddcc177c139";
const B: &str = "0a782fb5-3434-48fe-aa4d-14f41d46cf92";
/// The keys of the example in 014, 6.3.2, which have 256 bits.
const KEY_A: &str = "wHHVxRwDJs3/bXd38GHP3oe4svTuRpZS0yCC7x4Ly+s=";
const KEY_B: &str = "OeGMPxh1+2RpJpNCYixWHFLYRubpOKCw94FcCI7VdJA=";

fn id(text: &str) -> KeyId {
    text.parse().unwrap()
}

fn container(keys: &[(&str, &str)]) -> Vec<u8> {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(id, key)| json!({ "key_ID": id, "key": key }))
        .collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

fn new(number: usize) -> Expect<'static> {
    Expect::New {
        number,
        size_bits: 256,
    }
}

#[test]
fn container_of_the_standard() {
    let body = container(&[(A, KEY_A), (B, KEY_B)]);
    let keys = parse_keys(&body, new(2)).unwrap();
    assert_eq!(keys[0].id, id(A));
    assert_eq!(keys[0].secret.expose(), STANDARD.decode(KEY_A).unwrap());
    assert_eq!(keys[1].secret.expose(), STANDARD.decode(KEY_B).unwrap());
}

#[test]
fn order_of_the_request_is_restored() {
    let body = container(&[(&A.to_uppercase(), KEY_A), (B, KEY_B)]);
    let keys = parse_keys(&body, Expect::These(&[id(B), id(A)])).unwrap();
    let order: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
    assert_eq!(order, [id(B), id(A)]);
    assert_eq!(keys[1].secret.expose(), STANDARD.decode(KEY_A).unwrap());
}

#[test]
fn extensions_are_passed_over() {
    let body = json!({
        "key_container_extension": {"acme_x": 1},
        "keys": [{"key_ID": A, "key": KEY_A, "key_ID_extension": {}, "key_extension": {"acme_y": [1]}}],
    });
    assert!(parse_keys(body.to_string().as_bytes(), new(1)).is_ok());
}

#[test]
fn escapes_in_base64_are_understood() {
    // PHP writes `\/`, .NET `\u002B`.
    let escaped = KEY_A.replace('/', "\\/").replace('+', "\\u002B");
    let body = format!(r#"{{"keys":[{{"key_ID":"{A}","key":"{escaped}"}}]}}"#);
    let keys = parse_keys(body.as_bytes(), new(1)).unwrap();
    assert_eq!(keys[0].secret.expose(), STANDARD.decode(KEY_A).unwrap());
}

#[test]
fn malformed_containers() {
    let json_error = |body: &str| match parse_keys(body.as_bytes(), new(1)) {
        Err(Malformed::Json { .. }) => (),
        other => panic!("{body}: {other:?}"),
    };
    for body in [
        "",
        " ",
        "null",
        "[]",
        "{}",
        "<html><body>502 Bad Gateway</body></html>",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":[null]}"#,
        r#"{"keys":[{}]}"#,
        r#"{"keys":[{"key_ID":"bc490419-7d60-487f-adc1-4ddcc177c139"}]}"#,
        r#"{"keys":[{"key":"AA=="}]}"#,
        r#"{"keys":[{"key_ID":1,"key":"AA=="}]}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[]"#,
        r#"{"keys":[]}x"#,
        // Table 11 of the standard spells it so; its examples and everybody else do not.
        r#"{"Keys":[{"key_ID":"bc490419-7d60-487f-adc1-4ddcc177c139","key":"AA=="}]}"#,
        "\u{feff}{\"keys\":[]}",
        // Derived readers would take these for objects.
        "[[]]",
        r#"[[{"key_ID":"bc490419-7d60-487f-adc1-4ddcc177c139","key":"AA=="}]]"#,
        r#"{"keys":[["bc490419-7d60-487f-adc1-4ddcc177c139","AA=="]]}"#,
    ] {
        json_error(body);
    }
    json_error(&"[".repeat(100_000));
    json_error(&format!("{{\"keys\":{}", "[".repeat(100_000)));
    assert!(matches!(
        parse_keys(b"{\"keys\":[{\"key_ID\":\"\xff\",\"key\":\"\"}]}", new(1)),
        Err(Malformed::Json { .. })
    ));
}

#[test]
fn malformed_keys() {
    let parse = |keys: &[(&str, &str)], expect: Expect<'_>| {
        parse_keys(&container(keys), expect).map(|keys| keys.len())
    };
    let ids = [id(A), id(B)];
    assert_eq!(
        parse(&[(A, KEY_A), ("no-uuid", KEY_B)], new(2)),
        Err(Malformed::KeyId { index: 1 })
    );
    assert_eq!(
        parse(&[(A, KEY_A), (&A.to_uppercase(), KEY_B)], new(2)),
        Err(Malformed::Duplicate(id(A)))
    );
    assert_eq!(
        parse(&[(A, KEY_A)], new(2)),
        Err(Malformed::Count { got: 1, asked: 2 })
    );
    assert_eq!(
        parse(&[(A, KEY_A), (B, KEY_B)], new(1)),
        Err(Malformed::Count { got: 2, asked: 1 })
    );
    assert_eq!(
        parse(&[], new(1)),
        Err(Malformed::Count { got: 0, asked: 1 })
    );
    assert_eq!(
        parse(&[(A, KEY_A)], Expect::These(&ids)),
        Err(Malformed::Count { got: 1, asked: 2 })
    );
    assert_eq!(
        parse(&[(A, KEY_A), (B, KEY_B)], Expect::These(&ids[..1])),
        Err(Malformed::Foreign(id(B)))
    );
    assert_eq!(
        parse(&[(A, "AAAA")], new(1)),
        Err(Malformed::Size {
            id: id(A),
            bits: 24,
            asked: 256
        })
    );
    assert_eq!(
        parse(&[(A, "")], Expect::These(&ids[..1])),
        Err(Malformed::Size {
            id: id(A),
            bits: 0,
            asked: 0
        })
    );
}

#[test]
fn malformed_base64() {
    for key in [
        "=", "A", "AA", "AAA", "AA=", "A===", "====", "AAAA=", "AB==", "AA==AA==", " AAAA",
        "AAAA\n", "AA-_", "ÄÄÄÄ", "AAA\u{0}",
    ] {
        let body = container(&[(A, key)]);
        assert_eq!(
            parse_keys(&body, Expect::These(&[id(A)])).map(|keys| keys.len()),
            Err(Malformed::Base64 { id: id(A) }),
            "{key:?}"
        );
    }
    for raw in [
        "null",
        "12",
        "true",
        "[]",
        "{}",
        r#"["AAAA"]"#,
        r#""\n""#,
        r#""\u0100AAA""#,
        r#""\u00c4AAA""#,
        r#""\ud800AAA""#,
    ] {
        let body = format!(r#"{{"keys":[{{"key_ID":"{A}","key":{raw}}}]}}"#);
        assert_eq!(
            parse_keys(body.as_bytes(), Expect::These(&[id(A)])).map(|keys| keys.len()),
            Err(Malformed::Base64 { id: id(A) }),
            "{raw}"
        );
    }
}

#[test]
fn errors_quote_no_key() {
    // serde_json would say: invalid type: string "wHHV...", expected a sequence.
    let body = json!({ "keys": KEY_A }).to_string();
    let error = parse_keys(body.as_bytes(), new(1)).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("wHHV"));
}

#[test]
fn a_body_beyond_the_limit_is_not_parsed() {
    let body = vec![b' '; MAX_BODY + 1];
    assert_eq!(
        parse_keys(&body, new(1)).map(|keys| keys.len()),
        Err(Malformed::TooLong { limit: MAX_BODY })
    );
}

fn status() -> Value {
    // The example of 014, 6.1.2.
    json!({
        "source_KME_ID": "AAAABBBBCCCCDDDD",
        "target_KME_ID": "EEEEFFFFGGGGHHHH",
        "master_SAE_ID": "IIIIJJJJKKKKLLLL",
        "slave_SAE_ID": "MMMMNNNNOOOOPPPP",
        "key_size": 352,
        "stored_key_count": 25000,
        "max_key_count": 100_000,
        "max_key_per_request": 128,
        "max_key_size": 1024,
        "min_key_size": 64,
        "max_SAE_ID_count": 0
    })
}

#[test]
fn status_of_the_standard() {
    let read = parse_status(status().to_string().as_bytes()).unwrap();
    assert_eq!(read.source_kme_id, "AAAABBBBCCCCDDDD");
    assert_eq!(read.slave_sae_id.as_str(), "MMMMNNNNOOOOPPPP");
    assert_eq!(read.key_size, 352);
    assert_eq!(read.max_key_per_request, 128);
    assert_eq!(serde_json::to_value(&read).unwrap(), status());
}

#[test]
fn status_needs_every_required_member() {
    let complete = status();
    for member in complete.as_object().unwrap().keys() {
        for broken in [None, Some(Value::Null), Some(json!(-1)), Some(json!([]))] {
            let mut status = complete.clone();
            match &broken {
                None => drop(status.as_object_mut().unwrap().remove(member)),
                Some(value) => status[member] = value.clone(),
            }
            assert!(
                matches!(
                    parse_status(status.to_string().as_bytes()),
                    Err(Malformed::Json { .. })
                ),
                "{member}: {broken:?}"
            );
        }
    }
    let mut hostile = status();
    hostile["source_KME_ID"] = json!("kme\u{1b}[2J");
    assert!(parse_status(hostile.to_string().as_bytes()).is_err());
}

#[test]
fn errors_are_read_as_far_as_they_go() {
    let read = |text: &str| parse_error(text.as_bytes());
    assert_eq!(
        read(r#"{"message":"no","details":[{"a":"b","c":1},{"d":null},3,"x"]}"#),
        Some(ErrorBody {
            message: "no".into(),
            details: vec!["a: b".into(), "c: 1".into(), "d: null".into()]
        })
    );
    assert_eq!(
        read(r#"{"message":"no","details":"none"}"#)
            .unwrap()
            .details,
        Vec::<String>::new()
    );
    for text in ["", "<html>", "{}", r#"{"message":1}"#, "[]", "\"message\""] {
        assert_eq!(read(text), None, "{text}");
    }
    let long = json!({ "message": format!("\u{1b}[31m{}", "ä".repeat(1000)) }).to_string();
    let message = read(&long).unwrap().message;
    assert!(message.chars().count() <= 201 && !message.contains('\u{1b}'));
}

#[test]
fn requests_as_the_standard_writes_them() {
    assert_eq!(key_request(3, 256), br#"{"number":3,"size":256}"#);
    assert_eq!(key_request_query(3, 256), "number=3&size=256");
    assert_eq!(
        String::from_utf8(key_ids(&[id(A), id(B)])).unwrap(),
        format!(r#"{{"key_IDs":[{{"key_ID":"{A}"}},{{"key_ID":"{B}"}}]}}"#)
    );
    assert_eq!(key_id_query(&id(A)), format!("key_ID={A}"));
}

#[test]
fn an_sae_id_stays_one_path_segment() {
    let of = |text: &str| path(Operation::EncKeys, &text.parse().unwrap());
    assert_eq!(
        of("sae-ue-1").as_deref(),
        Some("/api/v1/keys/sae-ue-1/enc_keys")
    );
    assert_eq!(
        of("../../admin?x=1#%").as_deref(),
        Some("/api/v1/keys/..%2F..%2Fadmin%3Fx%3D1%23%25/enc_keys")
    );
    assert_eq!(
        of("é 1").as_deref(),
        Some("/api/v1/keys/%C3%A9%201/enc_keys")
    );
    assert_eq!(of("."), None);
    assert_eq!(of(".."), None);
    assert!(of("...").is_some());
}

proptest! {
    /// No octets make a reader panic.
    #[test]
    fn readers_survive_any_octets(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_keys(&body, new(1));
        let _ = parse_keys(&body, Expect::These(&[id(A)]));
        let _ = parse_status(&body);
        let _ = parse_error(&body);
    }

    /// Nor does a valid body with some octets changed, cut or put in; and what is still accepted
    /// is still what was asked for.
    #[test]
    fn readers_survive_mutations(
        at in any::<prop::sample::Index>(),
        octets in prop::collection::vec(any::<u8>(), 0..4),
        cut in 0usize..8,
    ) {
        let asked = [id(A), id(B)];
        let mut body = container(&[(A, KEY_A), (B, KEY_B)]);
        let at = at.index(body.len());
        let end = (at + cut).min(body.len());
        body.splice(at..end, octets);
        if let Ok(keys) = parse_keys(&body, Expect::These(&asked)) {
            let got: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
            prop_assert_eq!(&got[..], &asked[..]);
        }
        if let Ok(keys) = parse_keys(&body, new(2)) {
            prop_assert!(keys.iter().all(|key| key.secret.len() == 32));
            prop_assert_ne!(keys[0].id, keys[1].id);
        }
        let mut body = status().to_string().into_bytes();
        let at = at.min(body.len());
        body.truncate(at);
        prop_assert!(parse_status(&body).is_err());
    }

    /// Whatever a KME delivers comes out as it went in.
    #[test]
    fn round_trip(keys in prop::collection::btree_map(any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 32), 1..20)) {
        let body = json!({ "keys": keys.iter().map(|(id, key)| json!({
            "key_ID": KeyId::from_octets(*id), "key": STANDARD.encode(key)
        })).collect::<Vec<_>>() });
        let read = parse_keys(body.to_string().as_bytes(), new(keys.len())).unwrap();
        for (key, (id, octets)) in read.iter().zip(&keys) {
            prop_assert_eq!(key.id.octets(), id);
            prop_assert_eq!(key.secret.expose(), octets.as_slice());
        }
    }

    /// A URL parser sees the SAE ID as one segment and gives it back.
    #[test]
    fn path_segments_survive_url_parsers(sae in "[^\\p{C}]{1,40}") {
        let sae: SaeId = sae.parse().unwrap();
        if let Some(path) = path(Operation::DecKeys, &sae) {
            let url = reqwest::Url::parse(&format!("https://kme{path}")).unwrap();
            let segments: Vec<&str> = url.path_segments().unwrap().collect();
            prop_assert_eq!(segments.len(), 5);
            prop_assert!(url.query().is_none() && url.fragment().is_none());
            prop_assert_eq!(segments[4], "dec_keys");
        }
    }
}
