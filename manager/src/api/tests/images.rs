//! Images, and who sees which.

use super::*;
use crate::images::tests::{anew, digest, facts, held, node};

/// Two nodes: one holds all of what anybody may read and a private image, the other two thirds.
async fn scene() -> Scene {
    let scene = Scene::with(&[("m-1", MemberRole::Mirror), ("m-2", MemberRole::Mirror)]).await;
    let all = vec![
        held("open", "a/open", false, &[]),
        held("mine", "b/mine", true, &[]),
    ];
    let facts = vec![facts("open"), facts("mine")];
    scene.api.images.heard(&node("m-1"), anew(all, facts));
    let part = vec![held("open", "a/open", false, &[true, true, false])];
    scene.api.images.heard(&node("m-2"), anew(part, Vec::new()));
    scene
}

async fn get(scene: &Scene, role: Role, uri: &str) -> Value {
    let (head, told) = scene.ask_as(role, "GET", uri, Value::Null).await;
    assert_eq!(head.status(), StatusCode::OK, "{uri}: {told}");
    told
}

#[tokio::test]
async fn images_are_told_with_their_layers_and_who_holds_them() {
    let scene = scene().await;
    let list = get(&scene, Role::Viewer, "/api/v1/images?limit=1").await;
    let open = digest("open").to_string();
    let expected = json!([{
        "repository": "docker.io/a/open", "tags": ["latest"], "digest": open, "private": false,
        "platform": "linux/amd64", "size_bytes": 600, "layers": 2, "nodes": 2, "complete_nodes": 1,
    }]);
    assert_eq!(list["items"], expected);
    assert_eq!(
        (&list["next"], &list["reporting"]),
        (&Value::Null, &json!(2))
    );

    let image = get(&scene, Role::Viewer, &format!("/api/v1/images/{open}")).await;
    assert_eq!(
        (&image["size_bytes"], &image["held_bytes"]),
        (&json!(600), &json!(900))
    );
    let nodes: Vec<_> = image["blobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|blob| &blob["nodes"])
        .collect();
    assert_eq!(nodes, [2, 2, 1]);
    assert_eq!(image["blobs"][0]["config"], true);

    let uri = format!("/api/v1/images/{open}/nodes");
    let first = get(&scene, Role::Viewer, &format!("{uri}?limit=1")).await;
    assert_eq!(first["items"][0]["node"], "m-1");
    let after = first["next"].as_str().unwrap();
    let second = get(
        &scene,
        Role::Viewer,
        &format!("{uri}?limit=1&after={after}"),
    )
    .await;
    let expected = json!({
        "node": "m-2", "seed": false, "complete": false, "held_bytes": 300,
        "blobs": [true, true, false],
    });
    assert_eq!(second["items"], json!([expected]));
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn lists_of_images_are_filtered_and_go_on() {
    let scene = scene().await;
    let layer = digest("mine-2");
    for (query, expected) in [
        ("name=a/open:la".to_owned(), 1),
        ("name=docker.io".to_owned(), 2),
        ("name=nothing".to_owned(), 0),
        ("node=m-2".to_owned(), 1),
        (format!("digest={layer}"), 1),
        (format!("digest={layer}&node=m-2"), 0),
    ] {
        let list = get(&scene, Role::Operator, &format!("/api/v1/images?{query}")).await;
        assert_eq!(list["items"].as_array().unwrap().len(), expected, "{query}");
    }
    let first = get(&scene, Role::Operator, "/api/v1/images?limit=1").await;
    let after = first["next"].as_str().unwrap();
    let second = get(
        &scene,
        Role::Operator,
        &format!("/api/v1/images?limit=1&after={after}"),
    )
    .await;
    assert_eq!(second["items"][0]["repository"], "docker.io/b/mine");
    assert_eq!(second["next"], Value::Null);
    for bad in ["limit=0", "after=x", "digest=x", "node=%20", "other=x"] {
        let uri = format!("/api/v1/images?{bad}");
        let (head, _) = scene.ask_as(Role::Viewer, "GET", &uri, Value::Null).await;
        assert_eq!(head.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn viewers_are_not_told_of_what_not_everybody_may_read() {
    let scene = scene().await;
    let mine = digest("mine");
    for (role, seen) in [
        (Role::Viewer, false),
        (Role::Operator, true),
        (Role::Admin, true),
    ] {
        let list = get(&scene, role, "/api/v1/images").await;
        assert_eq!(list.to_string().contains("mine"), seen, "{role:?}");
        for path in [format!("{mine}"), format!("{mine}/nodes")] {
            let uri = format!("/api/v1/images/{path}");
            let (head, told) = scene.ask_as(role, "GET", &uri, Value::Null).await;
            assert_eq!(head.status() == StatusCode::OK, seen, "{role:?} {path}");
            assert!(seen || head.status() == StatusCode::NOT_FOUND, "{told}");
        }
    }
}
