//! Errors as problem documents (RFC 9457).

use crate::service::{Refusal, view::PlanView};
use axum::{
    extract::rejection::QueryRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

/// The `code`s that do not come from the service's conflicts.
pub mod code {
    /// The request makes no sense.
    pub const INVALID: &str = "invalid";
    /// What it names does not exist.
    pub const NOT_FOUND: &str = "not-found";
    /// Data would be lost that is not ours; the plan is attached.
    pub const NEEDS_YES: &str = "data-would-be-lost";
    /// Something broke in the controller.
    pub const INTERNAL: &str = "internal";
    /// There is no such path.
    pub const NO_SUCH_PATH: &str = "no-such-path";
    /// The path does not have this method.
    pub const NO_SUCH_METHOD: &str = "no-such-method";
    /// The answer took too long.
    pub const TOO_SLOW: &str = "too-slow";
    /// Too many operations are under way.
    pub const BUSY: &str = "busy";
}

/// An error as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What is wrong and what to do, in a sentence.
    pub detail: String,
    /// A stable word for programs.
    pub code: String,
    /// What would be done, where that is the problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Box<PlanView>>,
}

impl Problem {
    /// A problem without a plan.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            code: code.to_owned(),
            plan: None,
        }
    }

    /// Something broke; the log has it too.
    pub fn internal(error: &anyhow::Error) -> Self {
        let error = format!("{error:#}");
        tracing::error!(error, "answering an operator");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, error)
    }
}

impl From<QueryRejection> for Problem {
    fn from(error: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code::INVALID, error.body_text())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Invalid(_) => Self::new(StatusCode::BAD_REQUEST, code::INVALID, detail),
            Refusal::NotFound(_) => Self::new(StatusCode::NOT_FOUND, code::NOT_FOUND, detail),
            Refusal::Conflict { code, .. } => Self::new(StatusCode::CONFLICT, code, detail),
            Refusal::NeedsYes { plan } => {
                let problem = Self::new(StatusCode::CONFLICT, code::NEEDS_YES, detail);
                Self { plan: Some(plan), ..problem }
            }
            Refusal::Internal(error) => Self::internal(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}
