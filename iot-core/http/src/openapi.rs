use axum::http::Method;
use iot_core::access::Permission;
use serde_json::{Map, Value, json};

use crate::{
    idempotency::Idempotency,
    routes::{Doc, Guard, RouteInfo},
};

/// An OpenAPI 3.1 document; schemas are read off the examples.
pub(crate) fn document<'a>(
    title: &str,
    version: &str,
    routes: impl Iterator<Item = (&'a RouteInfo, &'a Doc)>,
) -> Value {
    let mut paths = Map::new();
    for (route, doc) in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, doc);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": title, "version": version },
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "responses": { "problem": {
                "description": "a problem (RFC 9457)",
                "content": { "application/problem+json": media(&json!({
                    "code": "forbidden", "status": 403, "title": "Forbidden", "detail": "this credential does not permit it"
                })) },
            } },
        },
    })
}

fn operation(route: &RouteInfo, doc: &Doc) -> Value {
    let (needs, security) = match route.guard {
        Guard::Public { why } => (format!("public: {why}"), json!([])),
        Guard::Account => ("needs a signed-in account".to_owned(), json!([{ "bearer": [] }])),
        Guard::SignedIn => ("needs a token of anybody".to_owned(), json!([{ "bearer": [] }])),
        Guard::Tenant(permission) => (needs(permission, "the tenant"), json!([{ "bearer": [] }])),
        Guard::TenantOrAccount(permission) => {
            let needs = format!("{}, or a signed-in account for what is its own", needs(permission, "the tenant"));
            (needs, json!([{ "bearer": [] }]))
        }
        Guard::Device(permission) => (needs(permission, "the device"), json!([{ "bearer": [] }])),
        Guard::Home(permission) => (needs(permission, "the home"), json!([{ "bearer": [] }])),
    };
    let mut operation = json!({
        "summary": doc.summary,
        "description": needs,
        "security": security,
        "parameters": parameters(route, doc),
        "responses": responses(doc),
    });
    if let Some((media_type, example)) = &doc.request {
        operation["requestBody"] = json!({ "required": true, "content": { *media_type: media(example) } });
    }
    operation
}

fn needs(permission: Permission, object: &str) -> String {
    format!("needs {permission:?} on {object}")
}

fn parameters(route: &RouteInfo, doc: &Doc) -> Vec<Value> {
    let text = json!({ "type": "string" });
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<_> =
        in_path.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text })).collect();
    all.extend(doc.query.iter().map(|(name, description)| {
        json!({ "name": name, "in": "query", "required": false, "description": description, "schema": text })
    }));
    if route.method == Method::POST && doc.idempotency != Idempotency::Natural {
        all.push(json!({ "name": "Idempotency-Key", "in": "header", "required": false, "schema": text }));
    }
    all
}

fn responses(doc: &Doc) -> Value {
    let mut all = json!({ "default": { "$ref": "#/components/responses/problem" } });
    for (status, media_type, example) in &doc.responses {
        let response = &mut all[status.to_string()];
        if response.is_null() {
            *response = json!({ "description": doc.summary });
        }
        if !example.is_null() {
            response["content"][*media_type] = media(example);
        }
    }
    all
}

fn media(example: &Value) -> Value {
    json!({ "schema": schema(example), "example": example })
}

fn schema(example: &Value) -> Value {
    match example {
        Value::Null => json!({}),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Array(items) => json!({ "type": "array", "items": items.first().map(schema).unwrap_or(json!({})) }),
        Value::Object(members) => {
            let properties: Map<_, _> = members.iter().map(|(name, value)| (name.clone(), schema(value))).collect();
            json!({ "type": "object", "properties": properties })
        }
    }
}
