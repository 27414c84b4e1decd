//! The rule of the floors (DESIGN 1): a crate imports only crates on lower floors, and doors never import one another.
//! Read from the manifests, so that an upward import fails the build of the house and not a reviewer's memory.

use std::collections::BTreeMap;
use std::path::Path;

fn floor(name: &str) -> Option<u8> {
    Some(match name {
        "gatehouse-model" => 0,
        "gatehouse-store" | "gatehouse-seal" | "gatehouse-record" | "gatehouse-dial" => 1,
        "gatehouse-identity" | "gatehouse-session" | "gatehouse-notify" => 2,
        "gatehouse-ssh"
        | "gatehouse-desktop"
        | "gatehouse-database"
        | "gatehouse-kube"
        | "gatehouse-web-app"
        | "gatehouse-automation" => 3,
        "gatehouse-api" | "gatehouse-console-tui" => 4,
        "gatehouse" => 5,
        "gatehouse-tests" => 6,
        _ => return None,
    })
}

fn manifests() -> BTreeMap<String, Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeMap::new();
    let services = std::fs::read_dir(root.join("services")).unwrap().map(|e| e.unwrap().path());
    for dir in services.chain([root.join("appliance"), root.join("tests"), root.join("console-tui")]) {
        let Ok(text) = std::fs::read_to_string(dir.join("Cargo.toml")) else { continue };
        let name = text.lines().find_map(|l| l.strip_prefix("name = \"")).unwrap().trim_end_matches('"').to_owned();
        // Every section counts, also dev-dependencies: a test that reaches upwards couples as well as code does.
        let imports = text
            .lines()
            .filter_map(|l| l.split(['.', ' ', '=']).next())
            .filter(|l| l.starts_with("gatehouse"))
            .map(str::to_owned)
            .collect();
        found.insert(name, imports);
    }
    found
}

#[test]
fn no_crate_imports_upwards_or_sideways() {
    let manifests = manifests();
    assert!(manifests.len() >= 12, "the manifests were not found: {manifests:?}");
    let mut wrong = Vec::new();
    for (name, imports) in &manifests {
        let Some(own) = floor(name) else {
            wrong.push(format!("{name} has no floor: give it one in this test and in ARCHITECTURE.md"));
            continue;
        };
        for import in imports {
            match floor(import) {
                Some(other) if other < own => {}
                other => wrong.push(format!("{name} (floor {own}) imports {import} (floor {other:?})")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
