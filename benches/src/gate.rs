//! Measures the time that a [`QuorumGate`] adds to a request, within the process and over HTTP.

use std::{
    future::{Ready, ready},
    hint::black_box,
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::mpsc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use actix::System;
use actix_quorum::{
    QuorumActor, QuorumHandle,
    sim::Cluster,
    web::{Quorate, QuorumGate},
};
use actix_web::{
    App, Error, HttpResponse, HttpServer,
    body::{EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform},
    middleware::from_fn,
    test, web,
};
use futures_util::{
    TryFutureExt,
    future::{Either, MapOk},
};

use crate::{clock, report::Report, stats::Sample};

const ROUNDS: usize = 600;
const REQUESTS: u32 = 300;
const RUNS: usize = 6;

pub(crate) fn run(report: &mut Report) {
    let cluster = Cluster::new(3);
    System::new().block_on(async {
        let quorum = start(&cluster).await;
        in_process(report, &quorum).await;
    });
    over_http(report, &cluster);
}

async fn start(cluster: &Cluster) -> QuorumHandle {
    let lease = Duration::from_secs(3600);
    let quorum = QuorumActor::builder().lease(lease).source(cluster.node(1)).start();
    quorum.wait_quorate().await.unwrap();
    quorum
}

async fn in_process(report: &mut Report, quorum: &QuorumHandle) {
    let route = || web::get().to(HttpResponse::Ok);
    let plain = test::init_service(App::new().route("/", route())).await;
    let gate = QuorumGate::new(quorum.clone());
    let gated = test::init_service(App::new().wrap(gate).route("/", route())).await;
    let passes = from_fn(|request, next: actix_web::middleware::Next<_>| next.call(request));
    let idle = test::init_service(App::new().wrap(passes).route("/", route())).await;
    let extracts = web::get().to(|_: Quorate| async { HttpResponse::Ok().finish() });
    let data = web::Data::new(quorum.clone());
    let extracted = test::init_service(App::new().app_data(data).route("/", extracts)).await;
    let passed = test::init_service(App::new().wrap(PassAll).route("/", route())).await;

    let mut samples = vec![Sample::default(); 5];
    let mut added = vec![Sample::default(); 5];
    for _ in 0..ROUNDS {
        let mut times = [0.0; 5];
        macro_rules! measure {
            ($($index:literal $app:ident)*) => {$({
                let start = clock::now();
                for _ in 0..REQUESTS {
                    let request = test::TestRequest::get().uri("/").to_request();
                    black_box($app.call(request).await.expect("the service answers"));
                }
                times[$index] = (clock::now() - start) as f64 / f64::from(REQUESTS);
                samples[$index].push(times[$index]);
            })*};
        }
        measure!(0 plain 1 gated 2 idle 3 extracted 4 passed);
        for (sample, time) in added.iter_mut().zip(times) {
            sample.push(time - times[0]);
        }
    }
    report.sample("a request within the process, without a gate", "ns", &samples[0]);
    let floor = ("a middleware that can refuse and passes every request on", added[4].median());
    report.floored("added by QuorumGate, within the process", "ns", &added[1], 60.0, floor);
    report.sample("added by a middleware of from_fn that does nothing", "ns", &added[2]);
    report.sample("added by the extractor Quorate", "ns", &added[3]);
}

/// A middleware that can answer in place of the handler, and passes every request on.
struct PassAll;

impl<S, B> Transform<S, ServiceRequest> for PassAll
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type InitError = ();
    type Transform = PassAllService<S>;
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(PassAllService(service)))
    }
}

struct PassAllService<S>(S);

impl<S, B> Service<ServiceRequest> for PassAllService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Either<
        MapOk<S::Future, fn(ServiceResponse<B>) -> Self::Response>,
        Ready<Result<Self::Response, Error>>,
    >;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let map: fn(ServiceResponse<B>) -> Self::Response = ServiceResponse::map_into_left_body;
        if black_box(true) {
            return Either::Left(self.0.call(request).map_ok(map));
        }
        let response = request.into_response(HttpResponse::ServiceUnavailable());
        Either::Right(ready(Ok(response.map_into_right_body())))
    }
}

/// Compares two servers in one process, with and without a gate, which are put under load in turn.
fn over_http(report: &mut Report, cluster: &Cluster) {
    let (sender, servers) = mpsc::channel();
    let cluster = cluster.clone();
    thread::spawn(move || {
        System::new().block_on(async move {
            let quorum = start(&cluster).await;
            let listen = || TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let (plain, gated) = (listen(), listen());
            let at = |listener: &TcpListener| listener.local_addr().expect("the socket listens");
            sender.send((at(&plain), at(&gated))).expect("the caller waits");
            let without =
                HttpServer::new(|| App::new().route("/", web::get().to(HttpResponse::Ok)))
                    .workers(1)
                    .listen(plain)
                    .expect("the socket listens")
                    .run();
            let with = HttpServer::new(move || {
                let gate = QuorumGate::new(quorum.clone());
                App::new().wrap(gate).route("/", web::get().to(HttpResponse::Ok))
            })
            .workers(1)
            .listen(gated)
            .expect("the socket listens")
            .run();
            let _ = futures_util::future::join(without, with).await;
        });
    });
    let (plain, gated) = servers.recv().expect("the servers start");
    let (mut without, mut ratio) = (Sample::default(), Sample::default());
    let mut same = Sample::default();
    for run in 0..RUNS {
        // The two servers take turns in coming first.
        let (first, second) = if run % 2 == 0 { (plain, gated) } else { (gated, plain) };
        let (first, second, again) = (wrk(first), wrk(second), wrk(plain));
        let (plain, gated) = if run % 2 == 0 { (first, second) } else { (second, first) };
        without.push(plain);
        ratio.push(gated / plain);
        same.push(again / plain);
    }
    report.sample("requests a second without the gate, from wrk on 16 connections", "/s", &without);
    report.sample("the server without the gate measured again, ratio", "x", &same);
    report.sample("requests a second with the gate, ratio to without", "x", &ratio);
}

/// Returns the number of requests per second that `wrk` reports.
fn wrk(server: SocketAddr) -> f64 {
    let output = Command::new("wrk")
        .args(["-t1", "-c16", "-d2s", &format!("http://{server}/")])
        .output()
        .expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Non-2xx"), "{text}");
    let (_, rate) = text.split_once("Requests/sec:").expect("wrk reports a rate");
    rate.split_whitespace().next().and_then(|rate| rate.parse().ok()).expect("a number")
}
