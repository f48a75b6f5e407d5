//! The emulator among programs and pages of this machine: what a browser may do, and whom tokens convince.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use itwin_syncd::emulator::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_ITWIN_ID, DEFAULT_NATIVE_CLIENT_ID, Emulator,
};
use serde_json::{Value, json};

use super::common::browser::Browser;
use super::contract::identity::{CHALLENGE, VERIFIER};
use super::support::{Platform, encoded};

/// A request as a browser sends it: status, and whether the page that asked may read the answer.
async fn asked(
    platform: &Platform,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> (u16, bool) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = platform
        .http
        .request(method, url)
        .header("content-length", 0);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let readable = answer.headers().contains_key("access-control-allow-origin");
    (answer.status().as_u16(), readable)
}

#[tokio::test]
async fn a_page_of_another_origin_or_host_cannot_use_the_control_routes() {
    let platform = Platform::start(Emulator::builder()).await;
    let api = platform.emulator.api_url().to_owned();
    let routes = [
        ("GET", "state"),
        ("GET", "requests"),
        ("GET", "switches"),
        ("POST", "switches?location=relative"),
        ("POST", "faults"),
        ("DELETE", "faults"),
        ("POST", "lock?file=x"),
        ("POST", "reset"),
    ];
    let before = serde_json::to_value(platform.emulator.state()).unwrap();
    for (method, route) in routes {
        let url = format!("{api}/_emulator/{route}");
        for headers in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "http://localhost:3000")],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            let output = asked(&platform, method, &url, headers).await;
            assert_eq!(output, (403, false), "{method} {route} {headers:?}");
        }
        let output = asked(&platform, method, &url, &[("host", "evil.example:8290")]).await;
        assert_eq!(output, (421, false), "{method} {route}");
        // A preflight gets no permission either.
        let preflight = [
            ("origin", "http://localhost:3000"),
            ("access-control-request-method", method),
        ];
        let output = asked(&platform, "OPTIONS", &url, &preflight).await;
        assert_eq!(output, (403, false), "{route}");
    }
    assert_eq!(
        serde_json::to_value(platform.emulator.state()).unwrap(),
        before
    );
    // A program and the emulator's own address are answered.
    for headers in [&[][..], &[("origin", api.as_str())]] {
        let url = format!("{api}/_emulator/state");
        assert_eq!(asked(&platform, "GET", &url, headers).await, (200, false));
    }
}

#[tokio::test]
async fn only_pages_on_this_machine_and_allowed_origins_can_use_the_platform() {
    let builder = Emulator::builder().origin("https://app.example.com");
    let platform = Platform::start(builder).await;
    let api = platform.emulator.api_url().to_owned();
    let root = platform
        .get(&format!("/storage?iTwinId={DEFAULT_ITWIN_ID}"))
        .await
        .ok(200);
    let root = root["_links"]["folder"]["href"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    let (_, upload) = platform.create(&root, "a.ifc").await;
    let urls = [
        format!("{api}/storage?iTwinId={DEFAULT_ITWIN_ID}"),
        format!("{api}/connect/token"),
        format!("{api}/.well-known/openid-configuration"),
        upload,
    ];
    for url in &urls {
        for (origin, allowed) in [
            ("http://localhost:3000", true),
            ("https://app.example.com", true),
            ("https://evil.example", false),
            ("null", false),
        ] {
            let preflight = [
                ("origin", origin),
                ("access-control-request-method", "PUT"),
                (
                    "access-control-request-headers",
                    "authorization,x-ms-blob-type",
                ),
            ];
            let status = if allowed { 204 } else { 403 };
            let output = asked(&platform, "OPTIONS", url, &preflight).await;
            assert_eq!(output, (status, allowed), "{url} {origin}");
            let (_, readable) = asked(&platform, "GET", url, &[("origin", origin)]).await;
            assert_eq!(readable, allowed, "{url} {origin}");
        }
        // A name that an attacker lets resolve to this machine.
        let output = asked(&platform, "GET", url, &[("host", "evil.example")]).await;
        assert_eq!(output, (421, false), "{url}");
    }
}

#[tokio::test]
async fn a_browser_is_never_sent_to_an_unregistered_address() {
    let builder = Emulator::builder().redirect("https://app.example.com/back");
    let platform = Platform::start(builder).await;
    let authorize = |to: &str| {
        format!(
            "/connect/authorize?response_type=code&client_id={DEFAULT_NATIVE_CLIENT_ID}&redirect_uri={}\
             &scope=itwin-platform&code_challenge={CHALLENGE}&code_challenge_method=S256",
            encoded(to)
        )
    };
    let leave = |to: &str| {
        format!(
            "/connect/endsession?state=s1&post_logout_redirect_uri={}",
            encoded(to)
        )
    };
    for (to, status) in [
        ("http://localhost:3301/signin-callback", 302),
        ("https://app.example.com/back", 302),
        ("https://evil.example/", 400),
        ("http://localhost@evil.example/", 400),
    ] {
        assert_eq!(platform.get(&authorize(to)).await.status, status, "{to}");
        let left = platform.get(&leave(to)).await;
        assert_eq!(left.status, status, "{to}");
        if status == 302 {
            assert_eq!(left.header("location"), format!("{to}?state=s1"));
        }
    }
    assert_eq!(platform.get("/connect/endsession").await.status, 200);
    // Consent needs the address that was given to an application of the user, and works once.
    assert_eq!(platform.get("/connect/consent").await.status, 400);
    assert_eq!(platform.get("/connect/consent?ticket=x").await.status, 400);
    assert!(platform.emulator.state().authorized_users.is_empty());
}

#[tokio::test]
async fn tokens_are_signed_with_the_stored_key_of_the_key_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let builder = Emulator::builder().data_dir(folder.path().to_owned());
        let platform = Platform::start(builder).await;
        let set = platform.get("/.well-known/jwks").await.ok(200);
        let key = &set["keys"][0];
        let parts: Vec<&str> = platform.token.split('.').collect();
        let decoded = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let header: Value = serde_json::from_slice(&decoded(parts[0])).unwrap();
        assert_eq!(
            (&header["alg"], &header["kid"]),
            (&json!("RS256"), &key["kid"])
        );
        let public = aws_lc_rs::signature::RsaPublicKeyComponents {
            n: decoded(key["n"].as_str().unwrap()),
            e: decoded(key["e"].as_str().unwrap()),
        };
        let scheme = &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
        let signed = format!("{}.{}", parts[0], parts[1]);
        let signature = decoded(parts[2]);
        public
            .verify(scheme, signed.as_bytes(), &signature)
            .expect("the signature should fit");
        public
            .verify(scheme, format!("{signed}x").as_bytes(), &signature)
            .unwrap_err();
        keys.push(key.clone());
        platform.emulator.stop().await;
    }
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_revoked_token_is_rejected_and_inactive() {
    let mut platform = Platform::start(Emulator::builder()).await;
    let ours = [
        ("client_id", DEFAULT_CLIENT_ID),
        ("client_secret", DEFAULT_CLIENT_SECRET),
    ];
    let token = platform.token.clone();
    let introspect = async |platform: &Platform, token: &str| {
        let form = [ours[0], ours[1], ("token", token)];
        platform.form("/connect/introspect", &form).await.ok(200)
    };
    let output = introspect(&platform, &token).await;
    assert_eq!(
        (&output["active"], &output["client_id"], &output["scope"]),
        (
            &json!(true),
            &json!(DEFAULT_CLIENT_ID),
            &json!("itwin-platform")
        )
    );
    assert!(output["exp"].as_i64() > output["iat"].as_i64());
    let revoke = async |platform: &Platform, form: &[(&str, &str)]| {
        platform.form("/connect/revocation", form).await
    };
    revoke(&platform, &[("token", &token)])
        .await
        .is(400, "invalid_request");
    revoke(&platform, &ours).await.is(400, "invalid_request");
    // Another client's token stays.
    let native = [("client_id", DEFAULT_NATIVE_CLIENT_ID), ("token", &token)];
    assert_eq!(revoke(&platform, &native).await.status, 200);
    assert_eq!(introspect(&platform, &token).await["active"], true);
    let form = [ours[0], ours[1], ("token", token.as_str())];
    assert_eq!(revoke(&platform, &form).await.status, 200);
    assert_eq!(
        introspect(&platform, &token).await,
        json!({ "active": false })
    );
    platform.get("/itwins").await.is(401, "Unauthorized");
    platform.sign_in().await;
    platform.get("/itwins").await.ok(200);
}

#[tokio::test]
async fn a_user_who_asks_for_openid_gets_an_id_token_with_the_nonce() {
    let platform = Platform::start(Emulator::builder()).await;
    let redirect = "http://localhost:3301/signin-callback";
    let page = format!(
        "/connect/authorize?response_type=code&client_id={DEFAULT_NATIVE_CLIENT_ID}&redirect_uri={}\
         &scope=openid+itwin-platform+email&nonce=n1&code_challenge={CHALLENGE}&code_challenge_method=S256",
        encoded(redirect)
    );
    let back = platform.get(&page).await;
    let back = url::Url::parse(back.header("location")).unwrap();
    let code = back.query_pairs().find(|(name, _)| name == "code").unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code.1),
        ("redirect_uri", redirect),
        ("client_id", DEFAULT_NATIVE_CLIENT_ID),
        ("code_verifier", VERIFIER),
    ];
    let granted = platform.form("/connect/token", &form).await.ok(200);
    assert!(granted["refresh_token"].is_null());
    let claims = |token: &Value| {
        let part = token.as_str().unwrap().split('.').nth(1).unwrap();
        let text = BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    let (id, access) = (
        claims(&granted["id_token"]),
        claims(&granted["access_token"]),
    );
    assert_eq!(
        (&id["nonce"], &id["aud"]),
        (&json!("n1"), &json!(DEFAULT_NATIVE_CLIENT_ID))
    );
    assert_eq!(id["sub"], access["sub"]);
}

/// A page that has nothing on it, at an address of this machine.
async fn empty_page() -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                drop(stream.read(&mut [0; 8192]).await);
                let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                drop(stream.write_all(page.as_bytes()).await);
            });
        }
    });
    port
}

impl Browser {
    /// Runs an async function with this body in the page; returns its result, or the text of its error.
    async fn run(&self, body: &str) -> serde_json::Value {
        let script = format!(
            "const done = arguments[arguments.length - 1]; (async () => {{ {body} }})().then(done, error => done(String(error)))"
        );
        self.page.execute_async(&script, Vec::new()).await.unwrap()
    }
}

#[tokio::test]
#[ignore = "needs Chromium and its driver: run tests/all"]
async fn a_page_in_a_browser_can_use_the_api_but_not_the_control_routes() {
    let builder = Emulator::builder().run_duration(Duration::from_millis(100));
    let platform = Platform::start(builder).await;
    let api = platform.emulator.api_url();
    let api_port = url::Url::parse(api).unwrap().port().unwrap();
    let port = empty_page().await;
    let rules = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP *.evil.example 127.0.0.1";
    let browser = Browser::start(&[rules]).await;

    // A page of this machine works with the platform: token, list, upload, download.
    browser
        .page
        .goto(&format!("http://localhost:{port}/"))
        .await
        .unwrap();
    let worked = browser
        .run(&format!(
            "const api = {api:?}; \
             const form = new URLSearchParams({{ grant_type: 'client_credentials', scope: 'itwin-platform', \
               client_id: {DEFAULT_CLIENT_ID:?}, client_secret: {DEFAULT_CLIENT_SECRET:?} }}); \
             const granted = await (await fetch(api + '/connect/token', {{ method: 'POST', body: form }})).json(); \
             const headers = {{ Authorization: 'Bearer ' + granted.access_token, 'Content-Type': 'application/json', \
               Accept: 'application/vnd.bentley.itwin-platform.v1+json' }}; \
             const ask = async (method, url, body) => (await fetch(url, {{ method, headers, body }})).json(); \
             const top = await ask('GET', api + '/storage?iTwinId={DEFAULT_ITWIN_ID}'); \
             const made = await ask('POST', top._links.folder.href + '/files', JSON.stringify({{ displayName: 'page.ifc' }})); \
             const put = await fetch(made._links.uploadUrl.href, {{ method: 'PUT', body: 'ISO-10303-21;', \
               headers: {{ 'x-ms-blob-type': 'BlockBlob' }} }}); \
             const done = await ask('POST', made._links.completeUrl.href); \
             return [put.status, put.headers.get('etag') !== null, done.file.size];"
        ))
        .await;
    assert_eq!(worked, json!([201, true, 13]));
    let files = || platform.emulator.state().files.len();
    assert_eq!(files(), 1);

    // Neither that page nor one from elsewhere drives the emulator or reads from it, in any of a browser's ways.
    for page in [
        format!("http://localhost:{port}/"),
        format!("http://evil.example:{port}/"),
    ] {
        browser.page.goto(&page).await.unwrap();
        for (request, expected) in [
            ("'/_emulator/state'", "TypeError"),
            ("'/_emulator/requests'", "TypeError"),
            (
                "'/_emulator/reset', { method: 'POST', mode: 'no-cors' }",
                "opaque",
            ),
            (
                "'/_emulator/faults', { method: 'POST', mode: 'no-cors', \
                 body: '{\"route\":\"*\",\"effect\":{\"kind\":\"status\",\"status\":500}}' }",
                "opaque",
            ),
            (
                "'/_emulator/switches?location=relative', { method: 'POST', mode: 'no-cors' }",
                "opaque",
            ),
        ] {
            let output = browser
                .run(&format!("return (await fetch({api:?} + {request})).type"))
                .await;
            let output = output.as_str().unwrap();
            assert!(output.starts_with(expected), "{page} {request}: {output}");
        }
        // A form that a page sends off needs no permission.
        browser
            .run(&format!(
                "const form = document.createElement('form'); form.method = 'post'; form.action = {api:?} + '/_emulator/reset'; \
                 document.body.append(form); form.submit(); return 0"
            ))
            .await;
        let left = format!("{api}/_emulator/reset");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while browser.page.current_url().await.unwrap().as_str() != left {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the form is not sent"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(files(), 1, "{page} reset the emulator");
        platform
            .get(&format!("/storage?iTwinId={DEFAULT_ITWIN_ID}"))
            .await
            .ok(200);
    }
    let switches = format!("{api}/_emulator/switches");
    let switches = platform.http.get(&switches).send().await.unwrap();
    let switches: Value = switches.json().await.unwrap();
    assert_eq!(switches["location"], "absolute");

    // The page from elsewhere may not use the platform either.
    browser
        .page
        .goto(&format!("http://evil.example:{port}/"))
        .await
        .unwrap();
    let output = browser
        .run(&format!(
            "return (await fetch({api:?} + '/.well-known/openid-configuration')).type"
        ))
        .await;
    assert!(
        output.as_str().unwrap().starts_with("TypeError"),
        "{output}"
    );
    // Nor by a name of its own that resolves to this machine: to the browser all of that is one origin.
    for path in [
        "/_emulator/state",
        "/.well-known/openid-configuration",
        "/connect/token",
    ] {
        browser
            .page
            .goto(&format!("http://evil.example:{api_port}{path}"))
            .await
            .unwrap();
        let output = browser
            .run(&format!(
                "const answer = await fetch({path:?}); return [answer.status, (await answer.text()).includes('Host header')]"
            ))
            .await;
        assert_eq!(output, json!([421, true]), "{path}");
    }
}
