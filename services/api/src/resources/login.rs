//! Log-in over HTTP: `authentication/auth/` (bearer, or a browser session), the second factor as a step of its own, and
//! confirming it again later (`confirm`, `mfa/verify`).

use axum::http::{HeaderValue, Method, StatusCode, header};
use gatehouse_identity::{BeginLogin, By, Door, Proof, Step};
use serde_json::{Map, Value, json};

use crate::app::clean_agent;
use crate::audit::{self, Action, Operation};
use crate::engine::list::{self, json_response};
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes, Stranger};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let login = json!({"type": "object", "required": ["username", "password"], "properties": {
        "username": {"type": "string"}, "password": {"type": "string", "format": "password"},
        "code": {"type": "string", "description": "second factor, when one is set up"},
        "session": {"type": "boolean", "description": "true: a browser session (cookies) instead of a bearer token"}}});
    let doc =
        || Doc::new("Log in: a bearer token, or the next step with a ticket for mfa/challenge").request(login.clone());
    routes.public(Method::POST, "/api/v1/authentication/auth/", doc(), log_in);
    routes.public(Method::POST, "/api/v1/authentication/tokens/", doc(), log_in);
    let challenge = json!({"type": "object", "required": ["ticket"], "properties": {
        "ticket": {"type": "string"}, "code": {"type": "string"}, "new_password": {"type": "string"}}});
    routes.public(
        Method::POST,
        "/api/v1/authentication/mfa/challenge/",
        Doc::new("Next step of a log-in: second factor, its set-up, or a new password").request(challenge),
        challenge_step,
    );
    let code = json!({"type": "object", "required": ["code"], "properties": {"code": {"type": "string"}}});
    for path in ["/api/v1/authentication/mfa/verify/", "/api/v1/authentication/confirm/"] {
        let doc = Doc::new("Prove the second factor again, for what shows secrets").request(code.clone());
        routes.post(path, Need::Me, doc, verify);
        routes.get(path, Need::Me, Doc::new("Until when the second factor counts as proven"), verified);
    }
    routes.delete("/api/v1/authentication/auth/", Need::Me, Doc::new("Log out: end this token or session"), log_out);
}

fn text<'b>(body: &'b Value, key: &str) -> &'b str {
    body.get(key).and_then(Value::as_str).unwrap_or("")
}

fn agent(stranger: &Stranger) -> String {
    clean_agent(stranger.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()))
}

async fn log_in(stranger: Stranger) -> Answer {
    let body = stranger.json().await?;
    let (username, password) = (text(&body, "username").trim(), text(&body, "password"));
    if username.is_empty() || password.is_empty() {
        let field = if username.is_empty() { "username" } else { "password" };
        return Err(Problem::field(field, "this field is required"));
    }
    let session = body.get("session").and_then(Value::as_bool).unwrap_or(false);
    let begin = BeginLogin {
        username: username.to_owned(),
        ip: stranger.ip,
        door: if session { Door::Web } else { Door::Api },
        user_agent: agent(&stranger),
    };
    let mut step = stranger.app.identity().begin(begin).password(password).await?;
    let code = text(&body, "code");
    if let (Step::Mfa(attempt), false) = (&mut step, code.is_empty()) {
        step = attempt.verify(code).await?;
    }
    next(&stranger, step, session).await
}

/// Done, or what is asked for next. A ticket works once; a wrong answer comes with a new one.
async fn next(stranger: &Stranger, step: Step, session: bool) -> Answer {
    if let Step::Done(proof) = step {
        return done(stranger, &proof, session).await;
    }
    let (code, detail) = match &step {
        Step::Mfa(_) => ("mfa_required", "send the code of your second factor with the ticket to mfa/challenge"),
        Step::EnrolMfa(_) => {
            ("mfa_unset", "a second factor is required; confirm the secret with a code at mfa/challenge")
        }
        Step::ChangePassword(_) => ("need_update_password", "send new_password with the ticket to mfa/challenge"),
        Step::Password | Step::Done(_) => {
            return Err(Problem::internal(&"a log-in by password stopped at an odd step"));
        }
    };
    let mut problem = Problem::bad_request(code, detail);
    let mut data = Map::new();
    let mut step = step;
    if let Step::EnrolMfa(enrol) = &mut step {
        let started = enrol.start()?;
        data.insert("secret".into(), json!(started.secret.as_str()));
        data.insert("uri".into(), json!(started.uri.as_str()));
    }
    let ticket = stranger.app.identity().park(step)?;
    let ticket = if session { format!("web-{}", ticket.as_str()) } else { ticket.as_str().to_owned() };
    data.insert("url".into(), json!("/api/v1/authentication/mfa/challenge/"));
    data.insert("choices".into(), json!(["otp"]));
    data.insert("ticket".into(), json!(ticket));
    problem.extra.insert("error".into(), json!(code));
    problem.extra.insert("msg".into(), json!(detail));
    problem.extra.insert("data".into(), Value::Object(data));
    Err(problem)
}

async fn challenge_step(stranger: Stranger) -> Answer {
    let body = stranger.json().await?;
    let ticket = text(&body, "ticket");
    let (session, ticket) = ticket.strip_prefix("web-").map_or((false, ticket), |t| (true, t));
    let expired = || Problem::bad_request("ticket_expired", "this log-in has expired; start again");
    let mut step = stranger.app.identity().resume(ticket).ok_or_else(expired)?;
    let outcome = match &mut step {
        Step::Mfa(attempt) => attempt.verify(text(&body, "code")).await.map_err(Problem::from),
        Step::EnrolMfa(enrol) => enrol.confirm(text(&body, "code")).await.map_err(Problem::from),
        Step::ChangePassword(change) => change.submit(text(&body, "new_password")).await.map_err(Problem::from),
        Step::Password | Step::Done(_) => Err(expired()),
    };
    match outcome {
        Ok(after) => next(&stranger, after, session).await,
        Err(mut problem) => {
            // A typing error does not start everything again; identity counts the failures.
            if let Ok(again) = stranger.app.identity().park(step) {
                let again = if session { format!("web-{}", again.as_str()) } else { again.as_str().to_owned() };
                problem.extra.insert("ticket".into(), json!(again));
            }
            Err(problem)
        }
    }
}

async fn done(stranger: &Stranger, proof: &Proof, session: bool) -> Answer {
    let (identity, agent) = (stranger.app.identity(), agent(stranger));
    let user = json!({"id": proof.user().id, "username": proof.user().username, "name": proof.user().name,
        "email": proof.user().email});
    if session {
        let made = identity.create_session(proof, &agent).await?;
        let body = json!({"user": user, "csrf": made.csrf, "date_expired": show_date(made.date_expired)});
        let mut response = json_response(StatusCode::CREATED, &body);
        let age = (made.date_expired - stranger.app.now()).num_seconds().max(0);
        let cookies = [
            format!("jms_sessionid={}; Path=/; Max-Age={age}; HttpOnly; Secure; SameSite=Lax", made.cookie.as_str()),
            format!("jms_csrftoken={}; Path=/; Max-Age={age}; Secure; SameSite=Lax", made.csrf),
        ];
        for cookie in cookies {
            let value = HeaderValue::from_str(&cookie).map_err(|e| Problem::internal(&e))?;
            response.headers_mut().append(header::SET_COOKIE, value);
        }
        return Ok(response);
    }
    let made = identity.create_bearer(proof, &agent).await?;
    let body = json!({
        "token": made.token.as_str(),
        "keyword": "Bearer",
        "date_expired": show_date(made.date_expired),
        "user": user,
    });
    Ok(json_response(StatusCode::CREATED, &body))
}

async fn verify(call: Call) -> Answer {
    let body = call.json().await?;
    // JumpServer's confirm form calls it secret_key.
    let code = [text(&body, "code"), text(&body, "secret_key")].into_iter().find(|c| !c.is_empty()).unwrap_or("");
    if code.is_empty() {
        return Err(Problem::field("code", "this field is required"));
    }
    let until = call.app.identity().verify_mfa(&call.who, code, &By::user(&call.user, call.ip)).await?;
    Ok(list::ok(&json!({"msg": "success", "mfa_until": show_date(until)})))
}

async fn verified(call: Call) -> Answer {
    let until = call.who.mfa_until.filter(|u| *u > call.app.now());
    Ok(list::ok(&json!({"confirmed": until.is_some(), "mfa_until": until.map(show_date), "backends": ["otp"]})))
}

async fn log_out(call: Call) -> Answer {
    if call.who.how.is_access_key() {
        return Err(Problem::bad_request("access_key", "an access key has no session; delete or switch off the key"));
    }
    let operation = Operation::new(Action::Delete, "Token", call.user.display(), call.who.token_id);
    let by = By::user(&call.user, call.ip).with_audit(audit::entry(&call, call.app.now(), operation));
    call.app.identity().revoke_token(call.user.id, call.who.token_id, &by).await?;
    Ok(list::no_content())
}
