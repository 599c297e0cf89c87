//! The parts that an actix-web service embeds, on the simulated cluster.

use std::{sync::Mutex, time::Duration};

use actix::Arbiter;
use actix_quorum::{
    Cause, Code, Connection, Error, Quorum, QuorumActor, QuorumChanged, QuorumHandle, QuorumLost,
    RingState, Snapshot, VoteFlags, Votes,
    json::{History, State},
    sim::{Cluster, Recorder},
    testing::ScriptedQuorum,
    web::{Quorate, QuorumGate, routes},
};
use actix_web::{
    App, HttpResponse, Responder,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    http::{Method, StatusCode, header},
    middleware::{Condition, DefaultHeaders, NormalizePath, TrailingSlash},
    test::{self, TestRequest},
    web::{self, ServiceConfig},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::support::{DEADLINE, eventually_async, hold};

/// How long a node may take to become exclusive on a busy machine.
const EXCLUSIVE_TIMEOUT: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

/// Returns a cluster of three nodes, and the handle and recorder of an actor on node 1 that reports
/// quorum.
async fn quorate() -> (Cluster, QuorumHandle, Recorder) {
    let cluster = Cluster::new(3);
    let builder = QuorumActor::builder().source(cluster.node(1));
    let quorum = builder.start_in_arbiter(&Arbiter::current());
    let mut recorder = Recorder::new(&quorum);
    recorder.expect_gain().await;
    (cluster, quorum, recorder)
}

/// Returns a cluster of three nodes, and the handle of an actor on node 1. This node is separated
/// from the other nodes, and its actor reports the loss.
async fn inquorate() -> (Cluster, QuorumHandle) {
    let (cluster, quorum, mut recorder) = quorate().await;
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    recorder.expect_loss().await;
    (cluster, quorum)
}

/// Returns the answer to one request to an app with these services.
async fn ask(
    configure: impl FnOnce(&mut ServiceConfig),
    request: TestRequest,
) -> ServiceResponse<impl MessageBody> {
    let app = test::init_service(App::new().configure(configure)).await;
    match app.call(request.to_request()).await {
        Ok(response) => response.map_into_left_body(),
        Err(error) => {
            let request = TestRequest::default().to_http_request();
            ServiceResponse::from_err(error, request).map_into_right_body()
        }
    }
}

fn header<'a>(response: &'a ServiceResponse<impl MessageBody>, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .unwrap_or_else(|| panic!("the response has no header {name}"))
        .to_str()
        .unwrap()
}

async fn text(response: ServiceResponse<impl MessageBody>) -> String {
    String::from_utf8(test::read_body(response).await.to_vec()).unwrap()
}

async fn body(response: ServiceResponse<impl MessageBody>) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

fn gated(gate: QuorumGate) -> impl FnOnce(&mut ServiceConfig) {
    |config| {
        let ok = || async { "done" };
        config.service(web::resource("/it").wrap(gate).default_service(web::to(ok)));
    }
}

#[actix_web::test]
async fn a_gate_lets_requests_through_only_with_quorum() {
    let (cluster, quorum, mut recorder) = quorate().await;
    let status = async |quorum: &QuorumHandle| {
        ask(gated(QuorumGate::new(quorum.clone())), TestRequest::get().uri("/it")).await.status()
    };
    assert_eq!(status(&quorum).await, StatusCode::OK);
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    recorder.expect_loss().await;
    assert_eq!(status(&quorum).await, StatusCode::SERVICE_UNAVAILABLE);
    cluster.heal();
    recorder.expect_gain().await;
    assert_eq!(status(&quorum).await, StatusCode::OK);
    let stop = quorum.stop();
    assert_eq!(status(&quorum).await, StatusCode::SERVICE_UNAVAILABLE);
    stop.await;
}

#[actix_web::test]
async fn a_refusal_reveals_only_the_documented_fields() {
    let (_cluster, quorum) = inquorate().await;
    let response = ask(gated(QuorumGate::new(quorum)), TestRequest::post().uri("/it")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    assert_eq!(header(&response, "cache-control"), "no-store");
    assert_eq!(header(&response, "x-content-type-options"), "nosniff");
    assert_eq!(
        body(response).await,
        json!({
            "type": "https://docs.rs/actix-quorum/latest/actix_quorum/web/struct.NotQuorate.html",
            "title": "This node is not known to have quorum",
            "status": 503,
            "detail": "this node has no quorum",
            "quorum": "inquorate",
            "reason": "inquorate",
            "ring_id": "1.9",
        })
    );
}

/// Returns a cluster of four nodes, and the handle of an actor on node 1. This node is in a
/// partition with node 2, and the votes of both are known.
async fn two_of_four() -> (Cluster, QuorumHandle) {
    let cluster = Cluster::new(4);
    let builder = QuorumActor::builder().source(cluster.node(1));
    let quorum = builder.start_in_arbiter(&Arbiter::current());
    let mut recorder = Recorder::new(&quorum);
    recorder.expect_gain().await;
    cluster.partition(&[&[1, 2], &[3, 4]]).unwrap();
    recorder.expect("the votes", |change| change.to_string().contains("2 of 4 votes")).await;
    (cluster, quorum)
}

#[actix_web::test]
async fn each_report_gives_the_reason_for_missing_quorum() {
    let (cluster, quorum) = two_of_four().await;
    let why = "2 of 4 votes, 3 required";
    let gate = QuorumGate::new(quorum.clone());
    let refusal = body(ask(gated(gate), TestRequest::post().uri("/it")).await).await;
    assert_eq!(refusal["detail"], format!("this node has no quorum: {why}"));
    assert_eq!(refusal["reason"], "inquorate");
    let (_, ready) = get(&quorum, "/readyz?verbose").await;
    let line = format!("[-]quorum failed: inquorate: ring 1.9, members 1 2; {why}\n");
    assert!(ready.contains(&line), "{ready}");
    let now: Value = serde_json::from_str(&get(&quorum, "/quorum").await.1).unwrap();
    assert_eq!((&now["shortage"], &now["votes"]["margin"]), (&json!(why), &json!(0)));
    cluster.heal();
    quorum.wait_for(|now| now.quorum.is_quorate()).await.unwrap();
    let now: Value = serde_json::from_str(&get(&quorum, "/quorum").await.1).unwrap();
    assert_eq!(now["shortage"], Value::Null);
}

#[actix_web::test]
async fn a_refusal_does_not_reveal_the_connection_error() {
    let (cluster, quorum, mut recorder) = quorate().await;
    cluster.crash(1).unwrap();
    recorder.expect_loss().await;
    let response = ask(gated(QuorumGate::new(quorum)), TestRequest::get().uri("/it")).await;
    let problem = body(response).await;
    assert_eq!(problem["quorum"], "unknown");
    assert!(
        ["disconnected", "connecting"].contains(&problem["reason"].as_str().unwrap()),
        "{problem}"
    );
    assert!(!problem.to_string().contains("CS_ERR"), "{problem}");
}

#[actix_web::test]
async fn the_reason_is_unstable_while_stable_after_delays_a_gain() {
    let cluster = Cluster::new(3);
    let builder = QuorumActor::builder().source(cluster.node(1)).stable_after(HOUR).lease(HOUR);
    let quorum = builder.start_in_arbiter(&Arbiter::current());
    quorum.wait_for(|snapshot| snapshot.ring == RingState::Operational).await.unwrap();
    let response = ask(gated(QuorumGate::new(quorum)), TestRequest::get().uri("/it")).await;
    assert_eq!(body(response).await["reason"], "unstable");
}

#[actix_web::test]
async fn retry_after_is_randomized() {
    let (_cluster, quorum) = inquorate().await;
    let retry_after = async |gate: QuorumGate| {
        let response = ask(gated(gate), TestRequest::get().uri("/it")).await;
        header(&response, "retry-after").parse::<u64>().expect("the header is an integer")
    };
    let gate = QuorumGate::new(quorum);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        seen.insert(retry_after(gate.clone().retry_after(Duration::from_millis(7_500))).await);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [8, 9, 10]);
    assert!((2..=3).contains(&retry_after(gate.clone()).await));
    assert!((1..=2).contains(&retry_after(gate.retry_after(Duration::ZERO)).await));
}

#[actix_web::test]
async fn safe_methods_pass_if_allowed() {
    let (_cluster, quorum) = inquorate().await;
    let gate = QuorumGate::new(quorum).allow_safe_methods(true);
    let status = async |method: Method| {
        let request = TestRequest::with_uri("/it").method(method);
        ask(gated(gate.clone()), request).await.status()
    };
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        assert_eq!(status(method).await, StatusCode::OK);
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::TRACE] {
        assert_eq!(status(method).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// A WebSocket connection begins with a GET, but can be used to write.
#[actix_web::test]
async fn an_upgrade_is_not_a_safe_method() {
    let (_cluster, quorum) = inquorate().await;
    let gate = QuorumGate::new(quorum).allow_safe_methods(true);
    for (connection, upgrade) in [
        ("Upgrade", Some("websocket")),
        ("keep-alive, upgrade", Some("WebSocket")),
        ("keep-alive", Some("websocket")),
        ("Upgrade", None),
    ] {
        let mut request = TestRequest::get().uri("/it").insert_header(("connection", connection));
        if let Some(upgrade) = upgrade {
            request = request.insert_header(("upgrade", upgrade));
        }
        let status = ask(gated(gate.clone()), request).await.status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{connection}, {upgrade:?}");
    }
}

#[actix_web::test]
async fn a_gate_works_on_a_scope_and_among_other_middleware() {
    let (_cluster, quorum) = inquorate().await;
    let ok = || async { HttpResponse::Ok().finish() };
    let app = test::init_service(
        App::new()
            .wrap(DefaultHeaders::new().add(("x-outer", "1")))
            .service(
                web::scope("/write")
                    .wrap(DefaultHeaders::new().add(("x-inner", "1")))
                    .wrap(QuorumGate::new(quorum.clone()))
                    .wrap(NormalizePath::trim())
                    .route("/a", web::post().to(ok)),
            )
            .service(
                web::resource("/off")
                    .wrap(Condition::new(false, QuorumGate::new(quorum.clone())))
                    .get(ok),
            )
            .route("/read", web::get().to(ok)),
    )
    .await;
    let refused = app.call(TestRequest::post().uri("/write/a").to_request()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&refused, "x-outer"), "1");
    assert!(!refused.headers().contains_key("x-inner"), "the inner middleware was not called");
    for uri in ["/off", "/read"] {
        let response = app.call(TestRequest::get().uri(uri).to_request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{uri}");
    }
}

async fn guarded(quorate: Quorate) -> impl Responder {
    assert!(quorate.is_valid());
    format!("epoch {}", quorate.into_guard().epoch())
}

#[actix_web::test]
async fn the_extractor_provides_a_guard() {
    let (cluster, quorum, mut recorder) = quorate().await;
    let configure = |quorum: &QuorumHandle| {
        let data = web::Data::new(quorum.clone());
        move |config: &mut ServiceConfig| {
            config.app_data(data).route("/it", web::post().to(guarded));
        }
    };
    let response = ask(configure(&quorum), TestRequest::post().uri("/it")).await;
    assert_eq!(text(response).await, "epoch 0");
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    recorder.expect_loss().await;
    let response = ask(configure(&quorum), TestRequest::post().uri("/it")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(body(response).await["reason"], "inquorate");
}

#[actix_web::test]
async fn the_extractor_finds_the_handle_of_the_routes() {
    let (_cluster, quorum, _recorder) = quorate().await;
    let configure = |config: &mut ServiceConfig| {
        config.configure(routes(quorum)).route("/it", web::post().to(guarded));
    };
    let response = ask(configure, TestRequest::post().uri("/it")).await;
    assert_eq!(text(response).await, "epoch 0");
}

#[actix_web::test]
async fn work_under_the_extractors_guard_ends_when_quorum_is_lost() {
    let (cluster, quorum, _probe) = quorate().await;
    async fn stuck(quorate: Quorate) -> HttpResponse {
        match quorate.run(std::future::pending::<()>()).await {
            Ok(()) => HttpResponse::Ok().finish(),
            Err(QuorumLost) => HttpResponse::Conflict().finish(),
        }
    }
    let data = web::Data::new(quorum);
    let app =
        test::init_service(App::new().app_data(data).route("/it", web::post().to(stuck))).await;
    let response = app.call(TestRequest::post().uri("/it").to_request());
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::CONFLICT);
}

#[actix_web::test]
async fn a_missing_handle_is_answered_with_500() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Error);
    let configure = |config: &mut ServiceConfig| {
        config.route("/it", web::post().to(guarded));
    };
    let response = ask(configure, TestRequest::post().uri("/it")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(response).await, "the service is not set up\n");
    let logged = LOGGED.lock().unwrap();
    let line = logged.iter().find(|line| line.contains("POST /it")).expect("the message is logged");
    assert!(line.contains(".app_data(web::Data::new(quorum.clone()))"), "{line}");
}

/// The lines logged at error level.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Error
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LOGGED.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[actix_web::test]
async fn the_gate_does_not_cut_off_a_streamed_response() {
    let (cluster, quorum, mut recorder) = quorate().await;
    let (send, chunks) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let chunks = Mutex::new(Some(chunks));
    let chunks = web::Data::new(chunks);
    async fn stream(
        chunks: web::Data<Mutex<Option<UnboundedReceiver<&'static str>>>>,
    ) -> HttpResponse {
        let chunks = chunks.lock().unwrap().take().expect("the stream is requested once");
        let stream = futures_util::stream::unfold(chunks, |mut chunks| async {
            let chunk = chunks.recv().await?;
            Some((Ok::<_, actix_web::Error>(web::Bytes::from_static(chunk.as_bytes())), chunks))
        });
        HttpResponse::Ok().streaming(stream)
    }
    let gate = QuorumGate::new(quorum.clone());
    let service = web::resource("/it").wrap(gate).get(stream);
    let app = test::init_service(App::new().app_data(chunks).service(service)).await;
    let response = app.call(TestRequest::get().uri("/it").to_request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    send.send("with quorum, ").unwrap();
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    recorder.expect_loss().await;
    assert!(!quorum.is_quorate());
    send.send("and without").unwrap();
    drop(send);
    assert_eq!(text(response).await, "with quorum, and without");
}

async fn get(quorum: &QuorumHandle, uri: &str) -> (StatusCode, String) {
    let response = ask(routes(quorum.clone()), TestRequest::get().uri(uri)).await;
    assert_eq!(header(&response, "cache-control"), "no-store", "{uri}");
    assert_eq!(header(&response, "x-content-type-options"), "nosniff", "{uri}");
    (response.status(), text(response).await)
}

#[actix_web::test]
async fn liveness_does_not_depend_on_quorum() {
    let (cluster, quorum, mut recorder) = quorate().await;
    assert_eq!(get(&quorum, "/livez").await, (StatusCode::OK, "ok\n".into()));
    cluster.crash(1).unwrap();
    recorder.expect_loss().await;
    assert_eq!(get(&quorum, "/livez").await, (StatusCode::OK, "ok\n".into()));
    let all = "[+]ping ok\n[+]actor ok\nlivez check passed\n";
    assert_eq!(get(&quorum, "/livez?verbose").await, (StatusCode::OK, all.into()));
    quorum.stop().await;
    let (status, body) = get(&quorum, "/livez?verbose").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("[-]actor failed: the quorum actor has ended\n"), "{body}");
    assert_eq!(get(&quorum, "/livez/ping").await.0, StatusCode::OK);
}

#[actix_web::test]
async fn readiness_depends_on_quorum_and_the_connection() {
    let (cluster, quorum, mut recorder) = quorate().await;
    assert_eq!(get(&quorum, "/readyz").await, (StatusCode::OK, "ok\n".into()));
    let all = "[+]connection ok\n[+]quorum ok\nreadyz check passed\n";
    assert_eq!(get(&quorum, "/readyz?verbose").await, (StatusCode::OK, all.into()));

    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    recorder.expect_loss().await;
    let brief = "[+]connection ok\n[-]quorum failed: reason withheld, ask with ?verbose\n\
                 readyz check failed\n";
    assert_eq!(get(&quorum, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, brief.into()));
    let (status, why) = get(&quorum, "/readyz?verbose").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("[-]quorum failed: inquorate: ring 1.9, members 1\n"), "{why}");
    let (status, why) = get(&quorum, "/readyz?verbose&exclude=quorum").await;
    assert_eq!(status, StatusCode::OK, "{why}");
    assert!(why.contains("[+]quorum excluded: ok\n"), "{why}");
    assert_eq!(get(&quorum, "/readyz?exclude=quorum").await, (StatusCode::OK, "ok\n".into()));
    let (status, why) = get(&quorum, "/readyz?exclude=%3Cb%3E").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("warn: a check to exclude is not known\n"), "{why}");

    assert_eq!(get(&quorum, "/readyz/connection").await.0, StatusCode::OK);
    assert_eq!(get(&quorum, "/readyz/quorum").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&quorum, "/readyz/nothing").await.0, StatusCode::NOT_FOUND);
    cluster.crash(1).unwrap();
    let lost = |change: &QuorumChanged| change.current.connection != Connection::Connected;
    recorder.expect("no connection", lost).await;
    let (_, why) = get(&quorum, "/readyz?verbose").await;
    assert!(why.contains("[-]connection failed: "), "{why}");
}

#[actix_web::test]
async fn the_routes_accept_get_and_head_without_a_body() {
    let (_cluster, quorum, _probe) = quorate().await;
    for uri in
        ["/quorum", "/quorum/events", "/quorum/history", "/quorum/live", "/livez", "/readyz/quorum"]
    {
        let response =
            ask(routes(quorum.clone()), TestRequest::with_uri(uri).method(Method::HEAD)).await;
        assert_eq!(response.status(), StatusCode::OK, "{uri}");
        let response = ask(routes(quorum.clone()), TestRequest::post().uri(uri)).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{uri}");
        let is_health = uri.starts_with("/livez") || uri.starts_with("/readyz");
        let allowed = if is_health { "GET, HEAD, OPTIONS" } else { "GET, HEAD" };
        assert_eq!(header(&response, "allow"), allowed, "{uri}");
        for name in ["content-length", "transfer-encoding"] {
            let value = if name == "content-length" { "3" } else { "chunked" };
            let request = TestRequest::get().uri(uri).insert_header((name, value));
            let response = ask(routes(quorum.clone()), request).await;
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{uri} with {name}");
        }
    }
}

/// HAProxy's `option httpchk` sends OPTIONS.
#[actix_web::test]
async fn the_health_routes_answer_options() {
    let (cluster, quorum, mut recorder) = quorate().await;
    let options = async |uri: &str| {
        let request = TestRequest::with_uri(uri).method(Method::OPTIONS);
        ask(routes(quorum.clone()), request).await.status()
    };
    for uri in ["/readyz", "/readyz/quorum", "/livez", "/livez/actor"] {
        assert_eq!(options(uri).await, StatusCode::OK, "{uri}");
    }
    assert_eq!(options("/quorum").await, StatusCode::METHOD_NOT_ALLOWED);
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    recorder.expect_loss().await;
    assert_eq!(options("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(options("/livez").await, StatusCode::OK);
}

#[actix_web::test]
async fn each_route_works_with_every_kind_of_path_normalization() {
    let (_cluster, quorum, _probe) = quorate().await;
    for normalized in [
        NormalizePath::new(TrailingSlash::Always),
        NormalizePath::new(TrailingSlash::Trim),
        NormalizePath::new(TrailingSlash::MergeOnly),
    ] {
        let app = App::new().wrap(normalized).configure(routes(quorum.clone()));
        let app = test::init_service(app).await;
        for uri in [
            "/quorum",
            "/quorum/events",
            "/quorum/history",
            "/quorum/live",
            "/livez",
            "/livez/actor",
            "/readyz",
            "/readyz/quorum",
        ] {
            for uri in [uri.to_owned(), format!("{uri}/"), format!("{uri}?verbose")] {
                let response = app.call(TestRequest::get().uri(&uri).to_request()).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK, "{uri}");
            }
        }
    }
}

/// Clients rely on the names and types of the fields.
#[actix_web::test]
async fn the_state_is_sent_as_documented() {
    let (cluster, quorum, mut recorder) = quorate().await;
    actix::clock::timeout(EXCLUSIVE_TIMEOUT, async {
        while !quorum.is_exclusive() {
            actix::clock::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the node becomes exclusive");
    let (status, now) = get(&quorum, "/quorum").await;
    let mut now: Value = serde_json::from_str(&now).unwrap();
    assert_eq!(status, StatusCode::OK);
    let changed_at = now["changed_at"].take();
    assert!(changed_at.as_str().unwrap().ends_with('Z'), "{changed_at}");
    assert_eq!(
        now,
        json!({
            "quorum": "quorate",
            "connection": { "state": "connected" },
            "ring_id": "1.5",
            "members": [1, 2, 3],
            "names": { "1": "n1", "2": "n2", "3": "n3" },
            "settled": true,
            "ring": "operational",
            "shortage": null,
            "exclusive": true,
            "fencing_token": 5,
            "epoch": 0,
            "votes": {
                "expected": 3, "highest_expected": 3, "total": 3, "quorum": 2, "qdevice": 0,
                "configured": 3, "margin": 1, "members": { "1": 1, "2": 1, "3": 1 },
                "qdevices": {}, "flags": ["quorate"],
            },
            "local": 1,
            "sequence": quorum.snapshot().sequence,
            "changed_at": null,
        })
    );
    cluster.crash(1).unwrap();
    recorder.expect_loss().await;
    let now: Value = serde_json::from_str(&get(&quorum, "/quorum").await.1).unwrap();
    assert_eq!((&now["quorum"], &now["votes"]), (&json!("unknown"), &json!(null)));
    assert!(now["connection"]["error"].as_str().unwrap().contains("CS_ERR_LIBRARY"), "{now}");
}

#[actix_web::test]
async fn the_history_is_sent_as_documented() {
    let (cluster, quorum, mut recorder) = quorate().await;
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    recorder.expect_loss().await;
    let history = async |uri: &str| -> Vec<Value> {
        let (status, body) = get(&quorum, uri).await;
        assert_eq!(status, StatusCode::OK);
        let mut body: Value = serde_json::from_str(&body).unwrap();
        serde_json::from_value(body["changes"].take()).unwrap()
    };
    let all = history("/quorum/history").await;
    let sequences: Vec<_> = all.iter().map(|change| change["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (1..=quorum.snapshot().sequence).collect::<Vec<_>>());
    let loss = all.iter().find(|change| change["quorum"] == "inquorate").unwrap();
    let keys: Vec<_> = loss.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "cause",
            "changed_at",
            "epoch",
            "joined",
            "left",
            "members",
            "quorum",
            "ring_id",
            "seconds",
            "sequence",
            "text"
        ]
    );
    assert_eq!((&loss["cause"], &loss["members"]), (&json!("quorum"), &json!([1])));
    assert_eq!(loss["text"], "inquorate: ring 1.9, members 1 (was quorate)");
    assert!(all[0]["seconds"].is_number() && all.last().unwrap()["seconds"].is_null());
    assert_eq!(history("/quorum/history?last=2").await, all[all.len() - 2..]);
    assert_eq!(history("/quorum/history?last=1024").await, all);
    for last in ["x", "0", "1025", "-1", "99999999999999999999"] {
        let uri = format!("/quorum/history?last={last}");
        assert_eq!(get(&quorum, &uri).await.0, StatusCode::BAD_REQUEST, "{uri}");
    }
}

#[actix_web::test]
async fn the_routes_report_no_quorum_once_the_lease_has_expired() {
    let cluster = Cluster::new(3);
    let arbiter = Arbiter::new();
    // The actor's own arbiter will be stuck, so that the actor cannot publish.
    let lease = Duration::from_secs(2);
    let quorum = QuorumActor::builder()
        .source(cluster.node(1))
        .lease(lease)
        .start_in_arbiter(&arbiter.handle());
    quorum.wait_quorate().await.unwrap();
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    arbiter.spawn_fn(move || {
        let _ = blocked.recv();
    });
    tokio::time::timeout(Duration::from_secs(20), quorum.guard().unwrap().lost()).await.unwrap();
    let now = quorum.snapshot();
    assert_eq!(now.connection, Connection::Connected, "the actor was unable to publish anything");
    assert_eq!(now.quorum, Quorum::Unknown);
    let now: Value = serde_json::from_str(&get(&quorum, "/quorum").await.1).unwrap();
    assert_eq!(now["quorum"], "unknown");
    let (status, why) = get(&quorum, "/readyz?verbose").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        why.contains("[-]quorum failed: unknown: corosync has not answered in time\n"),
        "{why}"
    );
    let response = ask(gated(QuorumGate::new(quorum)), TestRequest::get().uri("/it")).await;
    assert_eq!(body(response).await["reason"], "stalled");
    drop(unblock);
}

/// Restarting the process would help, so `/livez` fails.
#[actix_web::test]
async fn livez_fails_while_the_actor_is_stuck() {
    let cluster = Cluster::new(3);
    let arbiter = Arbiter::new();
    let quorum = QuorumActor::builder().source(cluster.node(1)).start_in_arbiter(&arbiter.handle());
    quorum.wait_quorate().await.unwrap();
    assert_eq!(get(&quorum, "/livez").await.0, StatusCode::OK);
    let held = hold(&arbiter);
    let body = actix::clock::timeout(DEADLINE, async {
        loop {
            let (status, body) = get(&quorum, "/livez?verbose").await;
            if status != StatusCode::OK {
                break body;
            }
            actix::clock::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    assert!(
        body.contains("[-]actor failed: the quorum actor has not run for 10 s or more"),
        "{body}"
    );
    drop(held);
    eventually_async("the node is quorate again", || {
        let status = quorum.clone();
        status.is_quorate().then_some(())
    })
    .await;
    assert_eq!(get(&quorum, "/livez").await.0, StatusCode::OK);
}

/// Parses an answer as a Rust client does, and serializes it again.
async fn read_and_written<T: Serialize + DeserializeOwned>(quorum: &QuorumHandle, uri: &str) -> T {
    let (status, body) = get(quorum, uri).await;
    assert_eq!(status, StatusCode::OK);
    let read: T = serde_json::from_str(&body).unwrap();
    let sent: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), sent, "every field is read");
    read
}

/// The test sets each state with a scripted handle, without a cluster.
#[actix_web::test]
async fn a_rust_client_can_parse_the_state_and_the_history() {
    let refused = Error::Connect(Code::ACCESS);
    let connecting = Connection::connecting(2, Some(refused.clone()));
    let script = ScriptedQuorum::new(Snapshot::without_quorum(connecting));
    let quorum = script.handle();
    let state: State = read_and_written(&quorum, "/quorum").await;
    assert_eq!((state.quorum, state.ring_id), (Quorum::Unknown, None));
    let expected = Connection::connecting(2, Some(Error::Remote(refused.to_string())));
    assert_eq!(state.connection, expected);

    let mut votes = Votes::default();
    (votes.expected, votes.total, votes.quorum) = (3, 3, 2);
    (votes.members, votes.flags) = ([1, 2, 3].map(|n| (n.into(), 1)).into(), VoteFlags::QUORATE);
    let mut quorate = Snapshot::new(Quorum::Quorate, "1.9".parse().unwrap(), [1, 2, 3]);
    (quorate.votes, quorate.local) = (Some(votes.clone()), Some(1.into()));
    script.publish(quorate);
    let state: State = read_and_written(&quorum, "/quorum").await;
    assert_eq!(state.fencing_token, Some(9.into()));
    assert_eq!((state.votes, state.exclusive), (Some(votes.clone()), true));

    (votes.total, votes.flags) = (1, VoteFlags::empty());
    votes.members = vec![(3.into(), 1)];
    let mut inquorate = Snapshot::new(Quorum::Inquorate, "3.d".parse().unwrap(), [3]);
    inquorate.votes = Some(votes);
    script.publish(inquorate);
    let state: State = read_and_written(&quorum, "/quorum").await;
    assert_eq!(state.shortage.as_deref(), Some("1 of 3 votes, 2 required"));
    let history: History = read_and_written(&quorum, "/quorum/history").await;
    let causes: Vec<_> = history.changes.iter().map(|past| past.cause).collect();
    assert_eq!(causes, [Cause::ConnectFailed, Cause::Membership, Cause::Membership]);
    assert!(history.changes[1].seconds.is_some() && history.changes[2].seconds.is_none());
}

/// Tests a service as a user of this crate does, without a cluster and without the feature `sim`.
#[actix_web::test]
async fn a_service_can_be_tested_with_a_scripted_handle() {
    let script = ScriptedQuorum::new(Snapshot::without_quorum(Connection::Connected));
    let quorum = script.handle();
    let write = || TestRequest::post().uri("/it");
    let status = async || {
        let gate = QuorumGate::new(quorum.clone());
        ask(gated(gate), write()).await.status()
    };
    assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&quorum, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&quorum, "/livez").await.0, StatusCode::OK);
    script.publish(Snapshot::new(Quorum::Quorate, "1.9".parse().unwrap(), [1, 2, 3]));
    assert_eq!(status().await, StatusCode::OK);
    assert_eq!(get(&quorum, "/readyz").await.0, StatusCode::OK);
    quorum.stop().await;
    assert_eq!(get(&quorum, "/livez").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
}

#[actix_web::test]
async fn the_options_of_the_gate_can_be_switched_off_again() {
    let inquorate = Snapshot::new(Quorum::Inquorate, "3.d".parse().unwrap(), [3]);
    let script = ScriptedQuorum::new(inquorate);
    let gate = QuorumGate::new(script.handle());
    let status = async |gate: QuorumGate, request: TestRequest| {
        ask(gated(gate), request.uri("/it")).await.status()
    };
    let safe = gate.clone().allow_safe_methods(true);
    assert_eq!(status(safe.clone(), TestRequest::get()).await, StatusCode::OK);
    let closed = safe.allow_safe_methods(false);
    assert_eq!(status(closed, TestRequest::get()).await, StatusCode::SERVICE_UNAVAILABLE);

    // The node is quorate now, but not exclusive, because the votes are not known.
    script.publish(Snapshot::new(Quorum::Quorate, "1.9".parse().unwrap(), [1, 2, 3]));
    let exclusive = gate.exclusive(true);
    let refused = status(exclusive.clone(), TestRequest::post()).await;
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(exclusive.exclusive(false), TestRequest::post()).await, StatusCode::OK);
}
