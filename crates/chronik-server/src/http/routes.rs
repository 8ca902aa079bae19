//! What the port answers to which path.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::health::Step;
use crate::metrics::{OPENMETRICS, PLAIN, Telemetry};

/// How long the metadata thread may take for a turn before the node counts as dead. A turn waits for a disk that syncs,
/// and a slow one may take seconds.
pub(super) const TURN_MS_MAX: u64 = 10_000;
/// How often to look whether it has turned.
const TURN_CHECK_MS: u64 = 5;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

type Answer = Response<Full<Bytes>>;

pub(super) async fn answer(telemetry: &Arc<Telemetry>, request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused =
            respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "This port answers GET and HEAD.\n".to_owned());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/health/live" => live(telemetry).await,
        "/health/ready" => ready(telemetry),
        "/metrics" => metrics(telemetry, request.headers()),
        "/" => respond(StatusCode::OK, TEXT, "/health/live\n/health/ready\n/metrics\n".to_owned()),
        _ => respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "There is /health/live, /health/ready and /metrics here.\n".to_owned(),
        ),
    }
}

/// Whether the metadata thread turns. Before there is one the process has only just started, and lives.
async fn live(telemetry: &Telemetry) -> Answer {
    let health = &telemetry.health;
    let asked_at = telemetry.clock().monotonic();
    if health.step() != Step::Stopping && health.ask_metadata() {
        while !health.has_turned_since(asked_at) {
            if TURN_MS_MAX <= telemetry.clock().monotonic().since_ms(asked_at) {
                let message = format!("the metadata thread has not turned for {TURN_MS_MAX} ms");
                let body = json!({ "status": "dead", "reason": "metadata_thread", "message": message });
                return respond_json(StatusCode::SERVICE_UNAVAILABLE, &body);
            }
            tokio::time::sleep(Duration::from_millis(TURN_CHECK_MS)).await;
        }
    }
    respond_json(StatusCode::OK, &json!({ "status": "live" }))
}

fn ready(telemetry: &Telemetry) -> Answer {
    let readiness = telemetry.health.readiness(telemetry.node());
    let status = if readiness.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond_json(status, &readiness.body)
}

fn metrics(telemetry: &Arc<Telemetry>, headers: &HeaderMap) -> Answer {
    let as_openmetrics = headers.get_all(ACCEPT).iter().any(|accepted| {
        accepted.to_str().is_ok_and(|accepted| accepted.contains("application/openmetrics-text"))
    });
    match telemetry.expose(as_openmetrics) {
        Ok(text) => respond(StatusCode::OK, if as_openmetrics { OPENMETRICS } else { PLAIN }, text),
        Err(error) => {
            tracing::error!("cannot write the metrics down: {error}");
            respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "The metrics could not be written.\n".to_owned())
        }
    }
}

fn respond_json(status: StatusCode, body: &Value) -> Answer {
    respond(status, JSON, format!("{body}\n"))
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
