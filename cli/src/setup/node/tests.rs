use super::*;

fn containerd(certs_dir: &Path, mirror: &str) -> HostsFile {
    HostsFile {
        certs_dir: certs_dir.to_owned(),
        mirror: mirror_url(mirror).unwrap(),
        leave_foreign: false,
    }
}

#[test]
fn containerd_is_pointed_at_the_mirror_and_a_second_run_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs.d");
    let setup = containerd(&certs, "http://127.0.0.1:7420/");
    assert_eq!(setup.run().unwrap(), Done::Written);
    let path = certs.join("_default/hosts.toml");
    let text = fs::read_to_string(&path).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    let host = &parsed["host"]["http://127.0.0.1:7420"];
    let capabilities: Vec<_> = host["capabilities"].as_array().unwrap().iter().collect();
    assert_eq!(capabilities, [&"pull".into(), &"resolve".into()]);
    assert!(
        parsed.get("server").is_none(),
        "the registry itself comes last"
    );
    let written = fs::metadata(&path).unwrap();
    assert_eq!(written.permissions().mode() & 0o777, 0o644);

    assert_eq!(setup.run().unwrap(), Done::Unchanged);
    assert_eq!(fs::metadata(&path).unwrap().ino(), written.ino());

    let moved = containerd(&certs, "http://127.0.0.1:7520");
    assert_eq!(moved.run().unwrap(), Done::Written);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("7520") && !text.contains("7420"), "{text}");
    let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "nothing half written is left");
}

#[test]
fn what_somebody_else_wrote_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("_default/hosts.toml");
    fs::create_dir(dir.path().join("_default")).unwrap();
    let theirs = "[host.\"https://proxy.example\"]\n";
    fs::write(&path, theirs).unwrap();
    let mut setup = containerd(dir.path(), "http://127.0.0.1:7420");
    let refused = setup.run().unwrap_err();
    assert!(matches!(refused, NodeError::Foreign { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("[host.\"http://127.0.0.1:7420\"]"), "{text}");
    setup.leave_foreign = true;
    assert_eq!(setup.run().unwrap(), Done::LeftAlone);
    assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
}

#[test]
fn a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, format!("{OURS}\n")).unwrap();
    fs::create_dir(dir.path().join("_default")).unwrap();
    let path = dir.path().join("_default/hosts.toml");
    std::os::unix::fs::symlink(&theirs, &path).unwrap();
    let refused = containerd(dir.path(), "http://127.0.0.1:7420").run();
    assert!(matches!(refused, Err(NodeError::Foreign { .. })));
    assert!(path.is_symlink());
}

#[test]
fn only_a_mirror_on_plain_http_without_a_path_is_taken() {
    assert_eq!(
        mirror_url("http://[::1]:7420").unwrap(),
        "http://[::1]:7420"
    );
    for bad in [
        "127.0.0.1:7420",
        "https://127.0.0.1:7420",
        "http://127.0.0.1",
        "http://127.0.0.1:7420/v2",
        "http://user:secret@127.0.0.1:7420",
        "http://x\"]\n[host.\"http://y:1",
    ] {
        assert!(mirror_url(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_data_directory_is_made_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("new/darner");
    let mine = fs::metadata(dir.path()).unwrap();
    let owner = Owner {
        user: mine.uid(),
        group: mine.gid(),
    };
    assert_eq!(give(&directory, owner).unwrap(), Done::Unchanged);
    let made = fs::metadata(&directory).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o700);

    // Giving away is root's to do.
    let other = Owner {
        user: 65532,
        group: 65532,
    };
    match give(&directory, other) {
        Ok(done) => {
            assert_eq!(done, Done::Written);
            let given = fs::metadata(&directory).unwrap();
            assert_eq!((given.uid(), given.gid()), (65532, 65532));
            assert_eq!(give(&directory, other).unwrap(), Done::Unchanged);
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
    }
}

#[test]
fn an_owner_is_two_numbers() {
    let (user, group) = (65532, 7);
    assert_eq!(owner("65532:7").unwrap(), Owner { user, group });
    for bad in ["65532", "nonroot:nonroot", "-1:0", ":", "1:2:3"] {
        assert!(owner(bad).is_err(), "{bad}");
    }
}
