//! A small client of the REST API, as a script would be written: log in once, then ask.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

pub const DEFAULT_ORG: &str = "00000000-0000-0000-0000-000000000002";
pub const ROOT_ORG: &str = "00000000-0000-0000-0000-000000000000";

#[derive(Clone)]
pub struct Api {
    pub base: String,
    pub token: String,
    pub org: String,
    http: reqwest::Client,
}

impl Api {
    /// Trusts the box's self-signed certificate, as `curl -k` would: the tests are not about the browser's trust.
    pub fn anonymous(base: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .danger_accept_invalid_certs(true)
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self { base: base.to_owned(), token: String::new(), org: DEFAULT_ORG.to_owned(), http }
    }

    pub async fn login(base: &str, username: &str, password: &str) -> Self {
        let mut api = Self::anonymous(base);
        let answer = api.post("authentication/auth/", json!({"username": username, "password": password})).await;
        api.token = answer["token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned();
        api
    }

    pub fn in_org(&self, org: &str) -> Self {
        Self { org: org.to_owned(), ..self.clone() }
    }

    /// Status and body, whatever they are.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, bytes) = self.raw(method, path, body).await;
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (status, value)
    }

    pub async fn raw(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Vec<u8>) {
        let mut request = self
            .http
            .request(method, format!("{}/api/v1/{path}", self.base))
            .header("X-JMS-ORG", &self.org)
            .header("Accept", "application/json");
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }

    /// The contract's health route answers 200.
    pub async fn is_healthy(&self) -> bool {
        self.http.get(format!("{}/api/health/", self.base)).send().await.is_ok_and(|a| a.status() == 200)
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, 200, "GET {path}: {value}");
        value
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.ask(Method::POST, path, Some(body)).await;
        assert!((200..300).contains(&status), "POST {path}: {status} {value}");
        value
    }

    pub async fn patch(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.ask(Method::PATCH, path, Some(body)).await;
        assert!((200..300).contains(&status), "PATCH {path}: {status} {value}");
        value
    }

    pub async fn delete(&self, path: &str) {
        let (status, value) = self.ask(Method::DELETE, path, None).await;
        assert!((200..300).contains(&status), "DELETE {path}: {status} {value}");
    }

    /// The rows of a list, enveloped or not.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let value = self.get(path).await;
        value.get("results").unwrap_or(&value).as_array().unwrap_or_else(|| panic!("GET {path}: {value}")).clone()
    }
}

pub fn id(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}")).to_owned()
}
