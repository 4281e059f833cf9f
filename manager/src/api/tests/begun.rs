//! What begins jobs by itself, as the API sees it.

use super::*;

fn schedule(cron: &str) -> Value {
    json!({ "name": "nightly", "cron": cron, "job": { "images": ["r.test/a:b"], "to": "seeds" } })
}

#[tokio::test]
async fn a_schedule_is_made_changed_and_removed() {
    let scene = Scene::with(&[("seed", MemberRole::Seed)]).await;
    let all = "/api/v1/schedules";
    let as_operator =
        async |method, uri, body| scene.ask_as(Role::Operator, method, uri, body).await;
    for bad in [
        schedule("every day"),
        json!({ "name": "nightly", "cron": "0 3 * * *", "job": { "images": [], "to": "seeds" } }),
        json!({ "name": "nightly", "cron": "0 3 * * *", "job": { "images": ["r.test/A"], "to": "seeds" } }),
        json!({ "name": "a b", "cron": "0 3 * * *", "job": { "images": ["r.test/a"], "to": "seeds" } }),
    ] {
        let (head, problem) = as_operator("POST", all, bad).await;
        assert!(head.status().is_client_error(), "{problem}");
    }
    let (head, made) = as_operator("POST", all, schedule("0 3 * * *")).await;
    assert_eq!(head.status(), StatusCode::CREATED, "{made}");
    assert_eq!(made["job"], schedule("")["job"]);
    assert!(made["next_ms"].as_i64() > Some(crate::users::now()));
    let (head, _) = as_operator("POST", all, schedule("0 4 * * *")).await;
    assert_eq!(head.status(), StatusCode::CONFLICT);

    let one = "/api/v1/schedules/nightly";
    let changed =
        json!({ "cron": "30 4 * * *", "job": { "images": ["r.test/a:c"], "to": "nodes" } });
    let token = format!("Bearer {}", scene.token(Role::Operator));
    let put = async |tag: Option<&str>| {
        let mut headers = vec![("authorization", token.as_str())];
        headers.extend(tag.map(|tag| ("if-match", tag)));
        let (head, _) = scene.ask("PUT", one, &headers, changed.clone()).await;
        head
    };
    assert_eq!(put(None).await.status(), StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(
        put(Some("\"7\"")).await.status(),
        StatusCode::PRECONDITION_FAILED
    );
    let head = put(Some("\"1\"")).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[header::ETAG], "\"2\"");
    assert_eq!(put(Some("*")).await.status(), StatusCode::OK);
    let (_, shown) = as_operator("GET", one, Value::Null).await;
    assert_eq!(shown["cron"], "30 4 * * *");

    let headers = [("authorization", token.as_str()), ("if-match", "\"1\"")];
    let (head, _) = scene.ask("DELETE", one, &headers, Value::Null).await;
    assert_eq!(head.status(), StatusCode::PRECONDITION_FAILED);
    let (head, _) = as_operator("DELETE", one, Value::Null).await;
    assert_eq!(head.status(), StatusCode::NO_CONTENT);
    let (head, _) = as_operator("GET", one, Value::Null).await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_registry_tells_of_a_push_with_the_webhooks_secret_alone() {
    let scene = Scene::with(&[("seed", MemberRole::Seed)]).await;
    let hook = json!({ "kind": "distribution", "registry": "r.test", "repositories": ["team/*"], "to": "seeds" });
    let new = json!({ "name": "push", "hook": hook });
    let (head, made) = scene
        .ask_as(Role::Admin, "POST", "/api/v1/webhooks", new)
        .await;
    assert_eq!(head.status(), StatusCode::CREATED, "{made}");
    let (path, secret) = (
        made["path"].as_str().unwrap(),
        made["secret"].as_str().unwrap(),
    );
    let envelope = json!({ "events": [{ "action": "push",
        "target": { "repository": "team/app", "tag": "v1" } }] });
    let bearer = format!("Bearer {secret}");
    let send = async |given: &str, body: String| {
        let headers = [
            ("authorization", given),
            ("content-type", "application/x-whatever"),
        ];
        let (head, told) = scene.send("POST", path, &headers, body).await;
        (
            head.status(),
            serde_json::from_str(&told).unwrap_or(Value::Null),
        )
    };
    let admin = format!("Bearer {}", scene.token(Role::Admin));
    for stranger in ["Bearer x", &*admin] {
        let (status, _) = send(stranger, envelope.to_string()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let (status, told) = send(&bearer, envelope.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert_eq!(told["ignored"], 0);
    let id = told["jobs"][0].as_str().unwrap();
    let (_, job) = ask(&scene, "GET", &format!("/api/v1/jobs/{id}")).await;
    assert_eq!(job["images"], json!(["r.test/team/app:v1"]));
    assert_eq!(job["by"], "webhook/push");
    let (_, again) = send(&bearer, envelope.to_string()).await;
    assert_eq!(again["jobs"][0], id);
    let (status, _) = send(&bearer, " ".repeat(crate::hooks::MAX_BODY + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = send(&bearer, "{}".to_owned()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let (_, listed) = ask(&scene, "GET", "/api/v1/webhooks").await;
    assert_eq!(listed["items"][0]["repositories"], json!(["team/*"]));
    assert!(!listed.to_string().contains(secret));
    let token = format!("Bearer {}", scene.token(Role::Admin));
    let headers = [("authorization", token.as_str()), ("if-match", "\"1\"")];
    let other =
        json!({ "kind": "harbor", "registry": "r.test", "repositories": ["*"], "to": "seeds" });
    let one = "/api/v1/webhooks/push";
    let (head, _) = scene.ask("PUT", one, &headers, other).await;
    assert_eq!(head.status(), StatusCode::BAD_REQUEST, "its kind stays");
    let wider = json!({ "kind": "distribution", "registry": "r.test", "repositories": ["*"], "to": "seeds" });
    let (head, _) = scene.ask("PUT", one, &headers, wider).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[header::ETAG], "\"2\"");
}
