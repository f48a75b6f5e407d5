//! Tokens for service applications and for users.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use itwin_syncd::emulator::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_NATIVE_CLIENT_ID};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::platform;
use crate::support::{Platform, Seen, encoded};

/// What proves that whoever brings a code is whom it was given to.
pub const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-in-all";

/// Its SHA-256.
pub const CHALLENGE: &str = "RDUzzyZDshWdh1NjEiYbs7cmFE5AV1hxBpr8vrwUqKM";

pub async fn identity(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let discovery = platform
        .get("/.well-known/openid-configuration")
        .await
        .ok(200);
    let issuer = platform.emulator.issuer_url();
    assert_eq!(discovery["issuer"], issuer);
    assert_eq!(
        discovery["token_endpoint"],
        format!("{issuer}/connect/token")
    );
    platform.get("/.well-known/jwks").await.ok(200);

    let service = [
        ("grant_type", "client_credentials"),
        ("client_id", DEFAULT_CLIENT_ID),
        ("client_secret", DEFAULT_CLIENT_SECRET),
        ("scope", "itwin-platform"),
    ];
    let granted = platform.form("/connect/token", &service).await.ok(200);
    assert_eq!(granted["expires_in"], 3600);
    assert_eq!(granted["token_type"], "Bearer");
    assert!(granted["refresh_token"].is_null());
    let token = granted["access_token"].as_str().unwrap();
    let claims = BASE64_URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["scope"], json!(["itwin-platform"]));
    assert!(claims["exp"].as_i64().unwrap() > claims["iat"].as_i64().unwrap());

    let with = |name: &'static str, value: &'static str| {
        let mut form = service;
        form.iter_mut()
            .filter(|field| field.0 == name)
            .for_each(|field| field.1 = value);
        form
    };
    for (form, error) in [
        (with("client_secret", "wrong"), "invalid_client"),
        (with("client_id", "nobody"), "invalid_client"),
        (
            with("client_id", DEFAULT_NATIVE_CLIENT_ID),
            "unauthorized_client",
        ),
        (with("scope", "openid itwin-platform"), "invalid_scope"),
        (with("scope", ""), "invalid_scope"),
        (with("grant_type", "password"), "unsupported_grant_type"),
    ] {
        platform.form("/connect/token", &form).await.is(400, error);
    }
    platform
        .form("/connect/token", &service[1..])
        .await
        .is(400, "invalid_request");
    let older = with("scope", "storage:read storage:modify");
    platform.form("/connect/token", &older).await.ok(200);

    let basic = |id: &str, secret: &str| {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")))
    };
    let ask_with_basic = async |header: String| {
        let form = "grant_type=client_credentials&scope=itwin-platform";
        let headers = [("authorization", header.as_str())];
        let url = format!("{issuer}/connect/token");
        let request = platform
            .http
            .post(url)
            .header("authorization", headers[0].1);
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        request.send().await.unwrap()
    };
    let encoded_id = encoded(DEFAULT_CLIENT_ID);
    assert_eq!(
        ask_with_basic(basic(&encoded_id, DEFAULT_CLIENT_SECRET))
            .await
            .status(),
        200
    );
    let denied = ask_with_basic(basic(&encoded_id, "wrong")).await;
    assert_eq!(denied.status(), 401);
    assert!(denied.headers().contains_key("www-authenticate"));
    seen.cells
        .lock()
        .unwrap()
        .insert(("POST /connect/token".to_owned(), 401));

    users(&platform).await;

    let introspect = |token: &str| {
        let fields = [
            ("client_id", DEFAULT_CLIENT_ID),
            ("client_secret", DEFAULT_CLIENT_SECRET),
        ];
        let mut form: Vec<(String, String)> = fields
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        form.push(("token".to_owned(), token.to_owned()));
        form
    };
    for (token, active) in [(token, true), ("stale", false)] {
        let form = introspect(token);
        let form: Vec<(&str, &str)> = form.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let output = platform.form("/connect/introspect", &form).await.ok(200);
        assert_eq!(output["active"], active);
    }
    platform
        .form("/connect/introspect", &[("token", token)])
        .await
        .is(400, "invalid_request");
}

/// Signing in as a user: a code, its exchange, and refresh tokens that rotate.
pub async fn users(platform: &Platform) {
    let verifier = VERIFIER;
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
    assert_eq!(challenge, CHALLENGE);
    let redirect = "http://localhost:3301/signin-callback";
    let authorize = |client: &str, kind: &str, method: &str| {
        format!(
            "/connect/authorize?response_type={kind}&client_id={client}&redirect_uri={}&state=s1\
             &scope=itwin-platform+offline_access&code_challenge={challenge}&code_challenge_method={method}",
            encoded(redirect)
        )
    };
    let native = DEFAULT_NATIVE_CLIENT_ID;
    let sent_back = async |path: String| {
        let answer = platform.get(&path).await;
        assert_eq!(answer.status, 302);
        let location = url::Url::parse(answer.header("location")).unwrap();
        assert!(location.as_str().starts_with(redirect));
        location
            .query_pairs()
            .into_owned()
            .collect::<std::collections::HashMap<_, _>>()
    };
    platform
        .get(&authorize("nobody", "code", "S256"))
        .await
        .is(400, "unauthorized_client");
    platform
        .get(&authorize(native, "code", "S256").replace("localhost", "evil.example"))
        .await
        .is(400, "invalid_request");
    assert_eq!(platform.get("/connect/endsession").await.status, 200);
    let leave = |to: &str| {
        format!(
            "/connect/endsession?post_logout_redirect_uri={}",
            encoded(to)
        )
    };
    assert_eq!(platform.get(&leave(redirect)).await.status, 302);
    platform
        .get(&leave("https://evil.example"))
        .await
        .is(400, "invalid_request");
    let revoke = [("client_id", native), ("token", "unknown")];
    assert_eq!(
        platform.form("/connect/revocation", &revoke).await.status,
        200
    );
    platform
        .form("/connect/revocation", &revoke[..1])
        .await
        .is(400, "invalid_request");
    platform
        .get("/connect/authorize?redirect_uri=nonsense")
        .await
        .is(400, "invalid_request");
    assert_eq!(
        sent_back(authorize(native, "token", "S256")).await["error"],
        "unsupported_response_type"
    );
    assert_eq!(
        sent_back(authorize(native, "code", "plain")).await["error"],
        "invalid_request"
    );
    let back = sent_back(authorize(native, "code", "S256")).await;
    assert_eq!(back["state"], "s1");

    let exchange = |code: &str, verifier: &str| {
        [
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.to_owned()),
            ("redirect_uri", redirect.to_owned()),
            ("client_id", native.to_owned()),
            ("code_verifier", verifier.to_owned()),
        ]
    };
    let form = async |fields: &[(&str, String)]| {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (*a, b.as_str())).collect();
        platform.form("/connect/token", &fields).await
    };
    let granted = form(&exchange(&back["code"], verifier)).await.ok(200);
    form(&exchange(&back["code"], verifier))
        .await
        .is(400, "invalid_grant");
    let other = sent_back(authorize(native, "code", "S256")).await;
    form(&exchange(&other["code"], "another verifier"))
        .await
        .is(400, "invalid_grant");

    let refresh = |token: &Value, client: &str| {
        [
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", token.as_str().unwrap().to_owned()),
            ("client_id", client.to_owned()),
        ]
    };
    let first = &granted["refresh_token"];
    form(&refresh(first, "nobody"))
        .await
        .is(400, "invalid_grant");
    let renewed = form(&refresh(first, native)).await.ok(200);
    form(&refresh(first, native)).await.is(400, "invalid_grant");
    let second = &renewed["refresh_token"];
    assert_ne!(first, second);
    platform.switch("refresh-token", "kept");
    for _ in 0..2 {
        let renewed = form(&refresh(second, native)).await.ok(200);
        assert!(renewed["refresh_token"].is_null());
    }
    platform.switches_off();
}
