//! Ending everything that stands for a user: when the user is disabled, expires, changes the password, or signs out
//! everywhere.

use gatehouse_model::session::ConnectionToken;
use gatehouse_model::user::{ApiToken, TempPassword};
use gatehouse_store::{AllOrgs, Batch};
use uuid::Uuid;

use crate::error::IdentityError;
use crate::{By, Identity};

impl Identity {
    /// Adds to a batch what makes all tokens, browser sessions, temporary passwords and connection tokens of a user
    /// useless, `keep` excepted: for the batch in which a user is disabled or deleted. Access keys stay; they are
    /// refused while the user is not valid, and have a switch of their own.
    pub fn sign_out_in(&self, user: Uuid, keep: Option<Uuid>, batch: &mut Batch) -> Result<(), IdentityError> {
        let system = self.store().system();
        for token in system.find::<ApiToken>("user", user.as_bytes())? {
            if Some(token.id) != keep {
                batch.delete::<ApiToken>(token.id);
            }
        }
        for temporary in system.find::<TempPassword>("user", user.as_bytes())? {
            if !temporary.verified {
                batch.delete::<TempPassword>(temporary.id);
            }
        }
        let everywhere = self.store().all_orgs(AllOrgs::crossing_organizations());
        for token in everywhere.find::<ConnectionToken>("user", user.as_bytes())? {
            if token.is_active {
                batch.put(ConnectionToken { is_active: false, ..ConnectionToken::clone(&token) });
            }
        }
        Ok(())
    }

    /// Signs a user out everywhere.
    pub async fn sign_out(&self, user: Uuid, keep: Option<Uuid>, by: &By) -> Result<(), IdentityError> {
        let mut batch = self.store().batch();
        self.sign_out_in(user, keep, &mut batch)?;
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(())
    }
}
