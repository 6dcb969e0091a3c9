//! One call of one plugin, and what a type of plugin is.

use crate::spec::{Attachment, Config, Environment, Error, Success, Verb, Version};

/// One call, as every function of every type gets it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What is asked for.
    pub verb: Verb,
    /// The configuration on stdin.
    pub config: &'a Config,
    /// The variables.
    pub environment: &'a Environment,
    /// The configuration as it came: what a plugin called from here gets.
    pub stdin: &'a [u8],
}

impl Call<'_> {
    /// The attachment the environment names. Meaningless for GC and STATUS, which are about a network.
    pub fn attachment(&self) -> Attachment {
        Attachment { container_id: self.environment.container_id.clone(), ifname: self.environment.ifname.clone() }
    }
}

/// A type of plugin: a row of [`super::TYPES`].
#[derive(Debug)]
pub struct Type {
    /// What it is called: as `type` in a configuration, and as the file that is executed.
    pub name: &'static str,
    /// The oldest version of the specification it speaks.
    pub oldest: Version,
    /// Attaches, and undoes everything when it fails.
    pub add: fn(&Call<'_>) -> Result<Success, Error>,
    /// Detaches: repeatable, and from the ids alone.
    pub del: fn(&Call<'_>) -> Result<(), Error>,
    /// Compares with `prevResult`.
    pub check: fn(&Call<'_>) -> Result<(), Error>,
    /// Removes what belongs to this network and to no attachment on the list; without a list nothing.
    pub gc: fn(&Call<'_>) -> Result<(), Error>,
    /// Could an ADD be served now?
    pub status: fn(&Call<'_>) -> Result<(), Error>,
}

impl Type {
    /// Serves the verb. Returns what belongs on stdout, in the configuration's version.
    ///
    /// # Errors
    /// Whatever the type refuses or fails at.
    pub fn serve(&self, call: &Call<'_>) -> Result<Option<String>, Error> {
        self.speaks(call.config.version)?;
        match call.verb {
            Verb::Add => self.answer(call).map(Some),
            Verb::Del => (self.del)(call).map(|()| None),
            Verb::Check => (self.check)(call).map(|()| None),
            Verb::Gc => (self.gc)(call).map(|()| None),
            Verb::Status => (self.status)(call).map(|()| None),
            Verb::Version => Ok(None),
        }
    }

    /// An ADD whose answer cannot be written in the version asked for never happened: DEL takes it back.
    fn answer(&self, call: &Call<'_>) -> Result<String, Error> {
        let success = (self.add)(call)?;
        success.to_json(call.config.version).map_err(|cause| match (self.del)(&Call { verb: Verb::Del, ..*call }) {
            Ok(()) => cause,
            Err(failure) => cause.and_failed("undoing", &failure),
        })
    }

    fn speaks(&self, version: Version) -> Result<(), Error> {
        if version >= self.oldest {
            return Ok(());
        }
        let (name, oldest) = (self.name, self.oldest);
        Err(Error::new(
            crate::spec::code::INCOMPATIBLE_VERSION,
            format!("incompatible CNI versions: {name} does not speak cniVersion {version}"),
        )
        .with_details(format!("{name} speaks {oldest} and newer")))
    }
}
