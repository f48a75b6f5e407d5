//! What work waits for that only a user can do: signing in, and letting connections act for them.

use super::{Error, Ledger, sql};
use crate::ids::ImodelId;

sql::row! {
    /// Why nothing is uploaded or synchronized.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SignInWait {
        /// Why nobody is signed in.
        pub reason: String,
        /// What to do about it.
        pub hint: String,
    }
}

/// What the owner of the connections of an iModel has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerNote {
    /// Runs wait until it is done; else they will soon.
    pub waits: bool,
    /// What is missing.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

impl Ledger {
    /// Claims no job for this reason; with None, claims them again. Returns whether that is something else than before.
    pub async fn record_sign_in_wait(&self, wait: Option<&SignInWait>) -> Result<bool, Error> {
        self.db
            .write_durably("record what the sign-in waits for", async |tx| {
                let known: Option<SignInWait> =
                    sql::query_as("SELECT reason, hint FROM sign_in_wait LIMIT 1")
                        .fetch_optional(&mut *tx)
                        .await?;
                if known.as_ref() == wait {
                    return Ok(false);
                }
                sql::query("DELETE FROM sign_in_wait")
                    .execute(&mut *tx)
                    .await?;
                if let Some(wait) = wait {
                    sql::query("INSERT INTO sign_in_wait (reason, hint) VALUES ($1, $2)")
                        .bind(&wait.reason)
                        .bind(&wait.hint)
                        .execute(tx)
                        .await?;
                }
                Ok(true)
            })
            .await
    }

    /// Records what the owner of the connections of an iModel has to do.
    pub async fn record_owner_note(
        &self,
        imodel_id: &ImodelId,
        note: Option<&OwnerNote>,
    ) -> Result<(), Error> {
        self.db
            .write(
                "record what the owner of connections has to do",
                async |tx| {
                    sql::query(
                    "INSERT INTO imodel_facts (imodel_id, owner_reason, owner_hint, owner_waits) \
                     VALUES ($1, $2, $3, $4) ON CONFLICT (imodel_id) DO UPDATE \
                     SET owner_reason = excluded.owner_reason, \
                     owner_hint = excluded.owner_hint, owner_waits = excluded.owner_waits",
                )
                .bind(imodel_id)
                .bind(note.map(|note| note.reason.as_str()))
                .bind(note.map(|note| note.hint.as_str()))
                .bind(i64::from(note.is_some_and(|note| note.waits)))
                .execute(tx)
                .await
                },
            )
            .await?;
        Ok(())
    }

    /// Forgets what it waits for a user for: the account is a service application.
    pub async fn needs_no_user(&self) -> Result<(), Error> {
        self.record_sign_in_wait(None).await?;
        self.db
            .write(
                "forget what the owner of connections has to do",
                async |tx| {
                    sql::query(
                        "UPDATE imodel_facts SET owner_reason = NULL, owner_hint = NULL, \
                     owner_waits = 0 WHERE owner_reason IS NOT NULL",
                    )
                    .execute(tx)
                    .await
                },
            )
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn nothing_is_claimed_until_a_user_is_signed_in() {
        let f = Fixture::new().await;
        let id = f
            .ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .id;
        f.ledger
            .hand_over(id, &[ready("n.dgn", 1)], at(0))
            .await
            .unwrap();
        let wait = SignInWait {
            reason: "no user is signed in".to_owned(),
            hint: "run `itwin-syncd login`".to_owned(),
        };
        assert!(f.ledger.record_sign_in_wait(Some(&wait)).await.unwrap());
        assert!(!f.ledger.record_sign_in_wait(Some(&wait)).await.unwrap());
        assert!(f.claim(1).await.is_none());
        let report = &f.ledger.watch_reports(at(1)).await.unwrap()[0];
        let inactive = report.inactive.clone();
        assert_eq!(inactive, Some(Inactive::AwaitsSignIn(wait)));
        f.ledger.needs_no_user().await.unwrap();
        assert!(f.claim(2).await.is_some());
        let report = &f.ledger.watch_reports(at(2)).await.unwrap()[0];
        assert_eq!(report.inactive, None);
    }

    #[tokio::test]
    async fn a_note_about_the_owner_concerns_the_watches_of_the_imodel() {
        let f = Fixture::new().await;
        f.ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap();
        let report = async || f.ledger.watch_reports(at(1)).await.unwrap().remove(0);
        let imodel = report().await.imodel_id;
        let note = OwnerNote {
            waits: true,
            reason: "not allowed".to_owned(),
            hint: "run `itwin-syncd login --connector`".to_owned(),
        };
        f.ledger
            .record_owner_note(&imodel, Some(&note))
            .await
            .unwrap();
        assert_eq!(report().await.owner, Some(note));
        f.ledger.record_owner_note(&imodel, None).await.unwrap();
        assert_eq!(report().await.owner, None);
    }
}
