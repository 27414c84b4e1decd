//! The resources: what there is under `/api/v1/`. One file per noun or group of routes; each describes, the engine does.

mod access_keys;
mod account_templates;
mod accounts;
mod acls;
mod activities;
mod assets;
mod audits;
mod commands;
mod common;
mod connection_tokens;
mod docs;
mod files;
mod forget;
mod gatehouse;
mod grants;
mod groups;
mod health;
mod labels;
mod login;
mod messages;
mod node_tree;
mod nodes;
mod orgs;
mod people;
mod perm_tree;
mod platforms;
mod profile;
mod replays;
mod role_bindings;
mod roles;
mod sessions;
mod settings;
mod test_connection;
mod tokens;
mod user_actions;
mod user_cas;
mod users;
mod watch;
mod zones;

pub(crate) use profile::Preference;

use crate::engine::Resource;
use crate::guard::Routes;

/// Adds every route; answers with the descriptions of the engine's resources.
pub(crate) fn mount(routes: &mut Routes) -> Vec<std::sync::Arc<Resource>> {
    let described: Vec<std::sync::Arc<Resource>> = [
        users::resources(),
        groups::resources(),
        orgs::resources(),
        roles::resources(),
        labels::resources(),
        platforms::resources(),
        zones::resources(),
        nodes::resources(),
        assets::resources(),
        accounts::resources(),
        account_templates::resources(),
        grants::resources(),
        acls::resources(),
        sessions::resources(),
    ]
    .into_iter()
    .flatten()
    .map(std::sync::Arc::new)
    .collect();
    for resource in &described {
        resource.mount(routes);
    }
    for add in [
        health::routes as fn(&mut Routes),
        docs::routes,
        common::routes,
        login::routes,
        tokens::routes,
        access_keys::routes,
        connection_tokens::routes,
        profile::routes,
        user_actions::routes,
        orgs::routes,
        role_bindings::routes,
        platforms::routes,
        node_tree::routes,
        assets::routes,
        accounts::routes,
        test_connection::routes,
        perm_tree::routes,
        sessions::routes,
        replays::routes,
        watch::routes,
        commands::routes,
        files::routes,
        audits::routes,
        activities::routes,
        settings::routes,
        messages::routes,
        gatehouse::routes,
        user_cas::routes,
    ] {
        add(routes);
    }
    described
}
