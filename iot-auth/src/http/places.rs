use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use iot_core::{access::Permission, device::Product, id::ProductId, problem::Problem, store::MetaStoreExt};
use iot_http::{Body, Doc, Guard, Identity, Items, PageQuery, Path, ProblemResponse, Routes};
use serde_json::json;

use super::{
    checked_name,
    shapes::{ProductAsked, ProductShown},
};
use crate::{
    auth::Auth,
    registry::{NAME_BYTES_MAX, Put},
};

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let (read, manage) = (Guard::Tenant(Permission::ReadDevice), Guard::Tenant(Permission::ManageDevices));
    let product = json!({ "id": "lock", "name": "Lock", "encoding": "json", "critical": true });
    let list = |summary, item: &serde_json::Value| {
        Doc::new(summary).paged().response(200, json!({ "items": [item], "next": null }))
    };
    let put_product_doc = Doc::new("Create or change a product")
        .request(json!({ "name": "Lock", "encoding": "json", "critical": true }))
        .response(200, product.clone())
        .response(201, product.clone());
    routes
        .get("/v1/products", read, list("Products", &product), products)
        .get("/v1/products/{product}", read, Doc::new("A product").response(200, product), product_of)
        .put("/v1/products/{product}", manage, put_product_doc, put_product)
}

async fn products(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    page: PageQuery,
) -> Result<Items<ProductShown>, ProblemResponse> {
    let tenant = who.principal.tenant.as_str();
    let found = auth.meta.page::<Product>("tenant", tenant, page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| ProductShown::of(stored.document)))
}

async fn product_of(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(product): Path<ProductId>,
) -> Result<Json<ProductShown>, ProblemResponse> {
    let found = auth.meta.find::<Product>(&Product::key_of(&who.principal.tenant, &product)).await?;
    let found = found.ok_or_else(|| Problem::not_found("product"))?;
    Ok(Json(ProductShown::of(found.document)))
}

async fn put_product(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(id): Path<ProductId>,
    Body(asked): Body<ProductAsked>,
) -> Result<impl IntoResponse, ProblemResponse> {
    let name = checked_name(&asked.name, NAME_BYTES_MAX)?.to_owned();
    let ProductAsked { encoding, critical, .. } = asked;
    let product = Product { tenant: who.principal.tenant.clone(), id, name, encoding, critical };
    let put = auth.put_product(&who.principal, product.clone()).await?;
    Ok((status(put), Json(ProductShown::of(product))))
}

fn status(put: Put) -> StatusCode {
    match put {
        Put::Created => StatusCode::CREATED,
        _ => StatusCode::OK,
    }
}
