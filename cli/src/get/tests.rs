use super::*;

#[test]
fn files_are_called_by_url_or_digest() {
    assert!(matches!(
        "https://a.example/b?c=d".parse(),
        Ok(What::Url(_))
    ));
    let digest = Digest::sha256(b"x");
    assert!(matches!(
        digest.to_string().parse(),
        Ok(What::Digest(found)) if found == digest
    ));
    for text in [
        "",
        "a",
        "ftp://a/b",
        "sha256:00",
        "file:///etc/passwd",
        "/etc/passwd",
    ] {
        assert!(text.parse::<What>().is_err(), "{text}");
    }
}

#[test]
fn a_signed_url_is_shown_without_its_signature() {
    let what: What = "https://a.example/b?Signature=secret#x".parse().unwrap();
    assert_eq!(what.to_string(), "https://a.example/b");
}

#[test]
fn headers_are_parsed() {
    let (name, value) = parse_header("Authorization: Bearer x:y").unwrap();
    assert_eq!(
        (name.as_str(), value.to_str().unwrap()),
        ("authorization", "Bearer x:y")
    );
    assert!(value.is_sensitive());
    for text in ["Authorization", ": x", "a b: c", "a: b\nc"] {
        assert!(parse_header(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn what_an_earlier_run_left_is_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("file");
    let what: What = "https://a.example/b".parse().unwrap();
    let mut partial = Partial::open(&output, &what, None).await.unwrap();
    assert_eq!((partial.len(), partial.tag()), (0, None));
    partial.begin_anew(Some("\"v1\"")).await.unwrap();
    partial.write(&"hel".into()).await.unwrap();
    let busy = Partial::open(&output, &what, None).await;
    assert!(matches!(busy, Err(GetError::InUse(_))));
    drop(partial);
    let mut partial = Partial::open(&output, &what, None).await.unwrap();
    assert_eq!((partial.len(), partial.tag()), (3, Some("\"v1\"")));
    partial.write(&"lo".into()).await.unwrap();
    let found = partial.finish(None, None).await.unwrap();
    assert_eq!(found, Digest::sha256(b"hello"));
    assert_eq!(std::fs::read(&output).unwrap(), b"hello");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_was_left_of_something_else_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("file");
    let what: What = "https://a.example/b".parse().unwrap();
    let mut partial = Partial::open(&output, &what, None).await.unwrap();
    partial.begin_anew(Some("\"v1\"")).await.unwrap();
    partial.write(&"hello".into()).await.unwrap();
    drop(partial);
    let other: What = "https://a.example/c".parse().unwrap();
    let partial = Partial::open(&output, &other, None).await.unwrap();
    assert_eq!((partial.len(), partial.tag()), (0, None));
}

#[tokio::test]
async fn wrong_bytes_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("file");
    std::fs::write(&output, "before").unwrap();
    let what: What = "https://a.example/b".parse().unwrap();
    let expected = Some(Digest::sha256(b"right"));
    let mut partial = Partial::open(&output, &what, expected).await.unwrap();
    partial.begin_anew(None).await.unwrap();
    partial.write(&"wrong".into()).await.unwrap();
    let error = partial.finish(expected, None).await.unwrap_err();
    assert!(matches!(error, GetError::WrongBytes { .. }));
    assert_eq!(std::fs::read(&output).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
