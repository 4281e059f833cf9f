//! Accounts, sessions, tokens, and the audit.

use super::*;

#[tokio::test]
async fn the_first_administrator_is_made_by_a_link_that_works_once() {
    for place in Place::each() {
        let database = place.open().await;
        let link = credentials::invite(&database).await.unwrap().unwrap();
        let link = link.reveal();
        let other = credentials::invite(&database).await.unwrap().unwrap();
        let members = Members::new(
            Snapshot::default(),
            false,
            Timing::default(),
            ManagerMetrics::default(),
        );
        let passwords = Passwords::new().unwrap();
        let scene = Scene {
            api: api(members, database, passwords),
            tokens: Vec::new(),
            _place: place,
        };
        let set_up = async |token: &str, password: &str| {
            let body = json!({ "token": token, "name": "root", "password": password });
            scene.ask("POST", "/api/v1/setup", &[], body).await
        };
        assert_eq!(set_up("guess", PASSWORD).await.0.status(), 403);
        assert_eq!(set_up(link, "short").await.0.status(), 400);
        let (head, begun) = set_up(link, PASSWORD).await;
        assert_eq!(
            (head.status(), &begun["role"]),
            (StatusCode::CREATED, &json!("admin"))
        );
        for used in [link, other.reveal()] {
            assert_eq!(set_up(used, PASSWORD).await.0.status(), 403);
        }
        assert!(
            credentials::invite(&scene.api.database)
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(scene.log_in("root", PASSWORD).await.0.status(), 201);
    }
}

#[tokio::test]
async fn a_session_changes_things_only_from_its_own_pages() {
    let scene = Scene::with(&[]).await;
    let (head, begun) = scene.log_in("admin", PASSWORD).await;
    assert_eq!(head.status(), StatusCode::CREATED);
    let set = head.headers()[header::SET_COOKIE].to_str().unwrap();
    for part in ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(set.split("; ").any(|has| has == part), "{set}");
    }
    let cookie = set.split(';').next().unwrap();
    assert!(cookie.starts_with(COOKIE));
    let csrf = begun["csrf"].as_str().unwrap();
    let label = json!({ "label": "ci", "role": "viewer", "expires_in_seconds": 60 });
    let make = async |headers: &[(&str, &str)]| {
        let (head, _) = scene
            .ask("POST", "/api/v1/tokens", headers, label.clone())
            .await;
        head.status().as_u16()
    };
    assert_eq!(make(&[("cookie", cookie)]).await, 403);
    assert_eq!(
        make(&[("cookie", cookie), ("x-csrf-token", "guess")]).await,
        403
    );
    let elsewhere = [
        ("cookie", cookie),
        ("x-csrf-token", csrf),
        ("sec-fetch-site", "cross-site"),
    ];
    assert_eq!(make(&elsewhere).await, 403);
    let ours = [
        ("cookie", cookie),
        ("x-csrf-token", csrf),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(make(&ours).await, 201);

    let me = async || {
        let (head, me) = scene
            .ask("GET", "/api/v1/me", &[("cookie", cookie)], Value::Null)
            .await;
        (head.status().as_u16(), me["user"].clone())
    };
    assert_eq!(me().await, (200, json!("admin")));
    let (head, _) = scene
        .ask("DELETE", "/api/v1/session", &ours, Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::NO_CONTENT);
    assert_eq!(me().await.0, 401);
}

#[tokio::test]
async fn guessing_passwords_becomes_slow_for_names_that_exist_or_not() {
    let scene = Scene::with(&[]).await;
    for name in ["viewer", "nobody"] {
        // However slow the machine is, at some guess the wait is longer than the guess takes.
        let mut guesses = 0;
        while scene.log_in(name, "wrong").await.0.status() == StatusCode::UNAUTHORIZED {
            guesses += 1;
            assert!(guesses < 16, "{name} can be guessed as fast as one likes");
        }
        assert!(guesses >= 5, "{name}: {guesses}");
        let (head, _) = scene.log_in(name, PASSWORD).await;
        assert_eq!(head.status(), StatusCode::TOO_MANY_REQUESTS, "{name}");
        assert!(head.headers().contains_key(header::RETRY_AFTER));
    }
    assert_eq!(scene.log_in("operator", PASSWORD).await.0.status(), 201);
    let in_order = json!(["operator", PASSWORD]);
    let (head, _) = scene.ask("POST", "/api/v1/session", &[], in_order).await;
    assert_eq!(head.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_token_does_what_it_is_for_until_it_is_revoked() {
    for place in Place::each() {
        let scene = Scene::over(place).await;
        let (head, begun) = scene.log_in("operator", PASSWORD).await;
        let set = head.headers()[header::SET_COOKIE].to_str().unwrap();
        let cookie = set.split(';').next().unwrap();
        let session = [
            ("cookie", cookie),
            ("x-csrf-token", begun["csrf"].as_str().unwrap()),
        ];
        let make = async |role: &str, life: u64| {
            let body = json!({ "label": "ci", "role": role, "expires_in_seconds": life });
            scene.ask("POST", "/api/v1/tokens", &session, body).await
        };
        assert_eq!(make("admin", 60).await.0.status(), 403, "above one's own");
        assert_eq!(make("viewer", 1).await.0.status(), 400);
        assert_eq!(make("viewer", u64::MAX).await.0.status(), 400);
        let (head, made) = make("viewer", 3600).await;
        assert_eq!(head.status(), StatusCode::CREATED);
        let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
        let show = [("authorization", bearer.as_str())];
        let (_, me) = scene.ask("GET", "/api/v1/me", &show, Value::Null).await;
        assert_eq!(me, json!({ "user": "operator", "role": "viewer" }));
        let in_url = format!(
            "/api/v1/me?access_token={}",
            made["token"].as_str().unwrap()
        );
        let (head, _) = scene.ask("GET", &in_url, &[], Value::Null).await;
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
        let renews = json!({ "label": "x", "role": "viewer", "expires_in_seconds": 60 });
        let (head, _) = scene.ask("POST", "/api/v1/tokens", &show, renews).await;
        assert_eq!(
            head.status(),
            StatusCode::FORBIDDEN,
            "a token makes no token"
        );

        // Nobody sees the tokens, nor those of others.
        let (_, list) = scene
            .ask_as(Role::Operator, "GET", "/api/v1/tokens", Value::Null)
            .await;
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        assert!(!list.to_string().contains("darner_pat_"));
        let revoke = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
        let (head, _) = scene
            .ask_as(Role::Viewer, "DELETE", &revoke, Value::Null)
            .await;
        assert_eq!(head.status(), StatusCode::NOT_FOUND, "somebody else's");
        let (head, _) = scene
            .ask_as(Role::Operator, "DELETE", &revoke, Value::Null)
            .await;
        assert_eq!(head.status(), StatusCode::NO_CONTENT);
        let (head, _) = scene.ask("GET", "/api/v1/me", &show, Value::Null).await;
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn accounts_are_changed_with_care() {
    for place in Place::each() {
        let scene = Scene::over(place).await;
        let new = json!({ "name": "ann", "role": "viewer", "password": PASSWORD });
        let create = async || {
            scene
                .ask_as(Role::Admin, "POST", "/api/v1/users", new.clone())
                .await
        };
        assert_eq!(create().await.0.status(), StatusCode::CREATED);
        assert_eq!(create().await.0.status(), StatusCode::CONFLICT);
        let (head, ann) = scene
            .ask_as(Role::Admin, "GET", "/api/v1/users/ann", Value::Null)
            .await;
        let tag = head.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(ann["role"], "viewer");
        let token = format!("Bearer {}", scene.token(Role::Admin));
        let patch = async |tag: Option<&str>| {
            let mut headers = vec![("authorization", token.as_str())];
            headers.extend(tag.map(|tag| ("if-match", tag)));
            let body = json!({ "role": "operator" });
            let told = scene
                .ask("PATCH", "/api/v1/users/ann", &headers, body)
                .await;
            told.0.status().as_u16()
        };
        assert_eq!(patch(None).await, 428);
        assert_eq!(patch(Some("\"77\"")).await, 412);
        assert_eq!(patch(Some(&tag)).await, 200);
        assert_eq!(patch(Some(&tag)).await, 412, "changed meanwhile");
        let remove = async |name: &str| {
            let uri = format!("/api/v1/users/{name}");
            let (head, _) = scene.ask_as(Role::Admin, "DELETE", &uri, Value::Null).await;
            head.status().as_u16()
        };
        assert_eq!(remove("admin").await, 409, "the last one");
        assert_eq!(remove("ann").await, 204);
        assert_eq!(remove("ann").await, 404);

        let uri = "/api/v1/audit?limit=3";
        let (_, lines) = scene.ask_as(Role::Admin, "GET", uri, Value::Null).await;
        let actions: Vec<_> = lines["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| {
                (
                    line["action"].as_str().unwrap(),
                    line["object"].as_str().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("user.remove", "ann"),
            ("user.change", "ann"),
            ("user.create", "ann"),
        ];
        assert_eq!(actions, expected);
        assert!(
            lines["items"][0]["actor"]
                .as_str()
                .unwrap()
                .starts_with("admin (token ")
        );
        assert!(lines["next"].is_string());
    }
}

#[tokio::test]
async fn the_audit_is_only_added_to() {
    for place in Place::each() {
        let scene = Scene::over(place).await;
        let database = &scene.api.database;
        for sql in ["DELETE FROM audit", "UPDATE audit SET actor = 'somebody'"] {
            let mut step = database.begin().await.unwrap();
            let refused = sqlx::query(sql).execute(&mut *step).await.unwrap_err();
            assert!(refused.to_string().contains("only added to"), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_role_taken_away_is_gone_from_tokens_and_sessions() {
    let scene = Scene::with(&[]).await;
    let (head, _) = scene.log_in("operator", PASSWORD).await;
    let set = head.headers()[header::SET_COOKIE].to_str().unwrap();
    let cookie = set.split(';').next().unwrap().to_owned();
    let change = Change {
        role: Some(Role::Viewer),
        password: None,
    };
    let operator: Name = "operator".parse().unwrap();
    accounts::change(&scene.api.database, "test", &operator, Some(1), change)
        .await
        .unwrap();
    let (_, me) = scene
        .ask_as(Role::Operator, "GET", "/api/v1/me", Value::Null)
        .await;
    assert_eq!(me["role"], "viewer");
    let (head, _) = scene
        .ask("GET", "/api/v1/me", &[("cookie", &cookie)], Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
}
