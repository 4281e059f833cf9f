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

#[tokio::test]
async fn an_operator_has_an_image_removed_and_follows_it() {
    let scene = scene().await;
    let open = digest("open").to_string();
    let uri = format!("/api/v1/images/{open}");
    let (head, removal) = scene
        .ask_as(Role::Operator, "DELETE", &uri, Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::ACCEPTED, "{removal}");
    let place = head.headers()[header::LOCATION]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        (&removal["digest"], &removal["name"]),
        (&json!(open), &json!("docker.io/a/open:latest"))
    );
    assert_eq!(
        (&removal["nodes"], &removal["done"]),
        (&json!(2), &json!(0))
    );
    let number = removal["number"].as_u64().unwrap();
    for id in ["m-1", "m-2"] {
        assert_eq!(scene.api.removals.heard(&node(id), 0)[0].number, number);
        scene.api.removals.heard(&node(id), number);
    }
    let shown = get(&scene, Role::Operator, &place).await;
    assert_eq!((&shown["done"], &shown["waiting"]), (&json!(2), &json!([])));
    let list = get(&scene, Role::Operator, "/api/v1/removals?limit=1").await;
    assert_eq!((&list["items"][0], &list["next"]), (&shown, &Value::Null));
    let audit = get(&scene, Role::Admin, "/api/v1/audit?limit=1").await;
    assert_eq!(audit["items"][0]["action"], "image.remove");
    let layer = digest("a layer").to_string();
    let uri = format!("/api/v1/tasks/{layer}");
    let (head, removal) = scene
        .ask_as(Role::Operator, "DELETE", &uri, Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::ACCEPTED, "{removal}");
    let ordered = scene.api.removals.heard(&node("m-1"), number);
    assert_eq!(ordered[0].key.to_string(), layer);
    let (head, _) = scene
        .ask_as(Role::Operator, "DELETE", "/api/v1/tasks/none", Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
    let absent = format!("/api/v1/images/{}", digest("nothing"));
    let (head, _) = scene
        .ask_as(Role::Operator, "DELETE", &absent, Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
    let (head, _) = scene
        .ask_as(
            Role::Operator,
            "GET",
            "/api/v1/removals?after=x",
            Value::Null,
        )
        .await;
    assert_eq!(head.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn without_schedulers_nothing_is_on_its_way() {
    let scene = scene().await;
    let list = get(&scene, Role::Viewer, "/api/v1/tasks").await;
    let expected =
        json!({ "items": [], "next": null, "tasks": 0, "schedulers": 0, "answering": 0 });
    assert_eq!(list, expected);
    let swarm = get(&scene, Role::Viewer, "/api/v1/swarm").await;
    assert_eq!(swarm, json!({ "nodes": [], "links": [] }));
    let uri = format!("/api/v1/tasks/{}", digest("x"));
    let (head, _) = scene.ask_as(Role::Viewer, "GET", &uri, Value::Null).await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
}
