//! Files that pages load. Each has an address with a hash of its content, so that it may be kept for ever.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    extract::Path,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use data_encoding::HEXLOWER;
use iot_core::problem::Problem;
use iot_http::ProblemResponse;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

struct Asset {
    name: &'static str,
    media_type: &'static str,
    content: &'static str,
}

/// All of them, with the names by which templates ask. The licences of those of others are beside them, in `assets/vendor`.
static ASSETS: [Asset; 6] = [
    Asset { name: "console.css", media_type: CSS, content: include_str!("../../assets/console.css") },
    Asset { name: "console.js", media_type: JAVASCRIPT, content: include_str!("../../assets/console.js") },
    Asset { name: "icon.svg", media_type: "image/svg+xml", content: include_str!("../../assets/icon.svg") },
    Asset { name: "htmx.js", media_type: JAVASCRIPT, content: include_str!("../../assets/vendor/htmx-2.0.11.min.js") },
    Asset {
        name: "uplot.js",
        media_type: JAVASCRIPT,
        content: include_str!("../../assets/vendor/uplot-1.6.32.min.js"),
    },
    Asset { name: "uplot.css", media_type: CSS, content: include_str!("../../assets/vendor/uplot-1.6.32.min.css") },
];

static HASHES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let hash = |asset: &Asset| HEXLOWER.encode(&digest(&SHA256, asset.content.as_bytes()).as_ref()[..8]);
    ASSETS.iter().map(hash).collect()
});

/// Where a file is, for templates.
pub(super) fn url(name: &str) -> String {
    let found = ASSETS.iter().zip(HASHES.iter()).find(|(asset, _)| asset.name == name);
    found.map(|(asset, hash)| format!("/console/assets/{hash}/{}", asset.name)).unwrap_or_default()
}

/// A file. One of another version is not found rather than given under a name that promises other content.
pub(super) async fn serve(Path((hash, name)): Path<(String, String)>) -> Response {
    let found = ASSETS.iter().zip(HASHES.iter()).find(|(asset, known)| asset.name == name && **known == hash);
    let Some((asset, _)) = found else { return ProblemResponse(Problem::not_found("file")).into_response() };
    let headers = [(CONTENT_TYPE, asset.media_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (headers, asset.content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_a_template_names_is_there() {
        for name in ["console.css", "console.js", "icon.svg", "htmx.js", "uplot.js", "uplot.css"] {
            assert!(url(name).starts_with("/console/assets/"), "{name}");
        }
        assert_eq!(url("other"), "");
    }
}
