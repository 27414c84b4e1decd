//! `users/groups` (O09).

use async_trait::async_trait;
use gatehouse_model::common::{Invalid, Validate};
use gatehouse_model::user::UserGroup;
use serde_json::{Map, Value, json};

use super::forget;
use crate::engine::Resource;
use crate::engine::change::Change;
use crate::engine::field::{self, int, many, text};
use crate::engine::related::Target;
use crate::engine::table::{Hooks, Predicate};
use crate::guard::Call;
use crate::problem::Problem;

struct Groups;

#[async_trait]
impl Hooks<UserGroup> for Groups {
    fn validate(&self, row: &UserGroup) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &UserGroup) -> String {
        row.name.clone()
    }

    fn filter(&self, _: &Call, name: &str, value: &str) -> Result<Option<Predicate<UserGroup>>, Problem> {
        let user = value.parse::<uuid::Uuid>().ok();
        Ok((name == "user_id")
            .then(|| -> Predicate<UserGroup> { Box::new(move |g| user.is_some_and(|u| g.users.contains(&u))) }))
    }

    fn show(&self, _: &Call, row: &UserGroup, out: &mut Map<String, Value>, _: bool) -> Result<(), Problem> {
        out.insert("users_amount".into(), json!(row.users.len()));
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &UserGroup) -> Result<(), Problem> {
        forget::group(change, row.id)
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        many("users", "Users", Target::User).default(|| json!([])),
        int("users_amount", "Users amount", 0, i64::MAX).computed(),
    ];
    fields.extend(field::org());
    fields.extend(field::labelled_meta());
    vec![
        Resource::new::<UserGroup, Groups>("users", "groups", "usergroup", "User group", fields, Groups)
            .filters(&["user_id"])
            .serialised(),
    ]
}
