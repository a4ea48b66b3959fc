//! The verbs of the store as methods, for tests that use many of them.

use memcached_lite::store::{Answer, Record, Result, Session, Store, Update, Verb};

/// See the top of this file. Exptimes are as on the wire.
pub trait Verbs {
    fn change(&self, session: &mut Session, update: Update) -> Result<Answer>;

    fn set(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Answer> {
        let verb = Verb::Set;
        let update = Update { verb, key, flags, exptime, value, ..Update::default() };
        self.change(session, update)
    }

    fn add(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Answer> {
        let verb = Verb::Add;
        let update = Update { verb, key, flags, exptime, value, ..Update::default() };
        self.change(session, update)
    }

    fn replace(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Answer> {
        let verb = Verb::Replace;
        let update = Update { verb, key, flags, exptime, value, ..Update::default() };
        self.change(session, update)
    }

    fn cas(
        &self,
        session: &mut Session,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
        number: u64,
    ) -> Result<Answer> {
        let verb = Verb::Cas;
        self.change(
            session,
            Update { verb, key, flags, exptime, number, value, ..Update::default() },
        )
    }

    fn append(
        &self,
        session: &mut Session,
        key: &[u8],
        value: &[u8],
    ) -> Result<Answer> {
        let verb = Verb::Append;
        self.change(session, Update { verb, key, value, ..Update::default() })
    }

    fn prepend(
        &self,
        session: &mut Session,
        key: &[u8],
        value: &[u8],
    ) -> Result<Answer> {
        let verb = Verb::Prepend;
        self.change(session, Update { verb, key, value, ..Update::default() })
    }

    fn incr(&self, session: &mut Session, key: &[u8], number: u64) -> Result<Answer> {
        let verb = Verb::Incr;
        self.change(session, Update { verb, key, number, ..Update::default() })
    }

    fn decr(&self, session: &mut Session, key: &[u8], number: u64) -> Result<Answer> {
        let verb = Verb::Decr;
        self.change(session, Update { verb, key, number, ..Update::default() })
    }

    fn touch(&self, session: &mut Session, key: &[u8], exptime: i64) -> Result<Answer> {
        let verb = Verb::Touch;
        self.change(session, Update { verb, key, exptime, ..Update::default() })
    }

    fn delete(&self, session: &mut Session, key: &[u8]) -> Result<Answer> {
        let verb = Verb::Delete;
        self.change(session, Update { verb, key, ..Update::default() })
    }

    fn get_and_touch<'s>(
        &self,
        session: &'s mut Session,
        key: &[u8],
        exptime: i64,
    ) -> Result<Option<Record<'s>>>;

    /// Makes all safe that the session's answers depend on.
    fn settle(&self, session: &Session) -> Result<()>;
}

impl Verbs for Store {
    fn change(&self, session: &mut Session, update: Update) -> Result<Answer> {
        self.execute(session, &update)
    }

    fn get_and_touch<'s>(
        &self,
        session: &'s mut Session,
        key: &[u8],
        exptime: i64,
    ) -> Result<Option<Record<'s>>> {
        let answer = self.touch(session, key, exptime)?;
        Ok((answer == Answer::Touched).then(|| self.touched(session)))
    }

    fn settle(&self, session: &Session) -> Result<()> {
        self.commit(session.depends_on, session.now)
    }
}
