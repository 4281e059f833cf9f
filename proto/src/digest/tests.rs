use super::*;
use proptest::prelude::*;

const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn the_empty_content_has_its_known_digest() {
    assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
    assert!(EMPTY.parse::<Digest>().expect("valid").matches(b""));
    assert!(!EMPTY.parse::<Digest>().expect("valid").matches(b"x"));
}

#[test]
fn what_is_no_digest_is_refused() {
    let upper = EMPTY.to_uppercase();
    let long = format!("{EMPTY}00");
    for text in [
        "",
        "sha256",
        "sha256:",
        "sha256:totallywrong",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        &EMPTY[..70],
        &upper,
        &long,
        "sha512:00",
        " sha256:",
        "sha256:é",
    ] {
        assert!(text.parse::<Digest>().is_err(), "{text}");
    }
}

#[test]
fn the_key_of_a_file_is_no_digest() {
    let key = Digest::File([7; 32]);
    assert!(key.to_string().parse::<Digest>().is_err());
    assert_eq!(Digest::parse_key(&key.to_string()), Ok(key));
    assert_eq!(Digest::from_wire(&key.to_wire()), Ok(key));
    assert_eq!(Digest::parse_key(EMPTY), EMPTY.parse());
    assert!(!key.matches(b"") && key.admits(&Digest::sha256(b"")));
    assert!(!Digest::sha256(b"x").admits(&Digest::sha256(b"")));
    let bare = Digest::Sha256([7; 32]);
    assert!(key != bare && key.to_wire() != bare.to_wire());
}

proptest! {
    #[test]
    fn text_and_wire_forms_round_trip(hash in any::<[u8; 32]>(), tail in any::<[u8; 32]>()) {
        let mut long = [0; 64];
        long[..32].copy_from_slice(&hash);
        long[32..].copy_from_slice(&tail);
        for digest in [Digest::Sha256(hash), Digest::Sha512(long)] {
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            prop_assert_eq!(Digest::from_wire(&digest.to_wire()), Ok(digest));
        }
    }

    #[test]
    fn no_input_makes_the_parsers_panic(text in ".*", wire in any::<Vec<u8>>()) {
        let _ = text.parse::<Digest>();
        let _ = Digest::from_wire(&wire);
    }
}
