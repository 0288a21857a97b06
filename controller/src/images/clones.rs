//! Revisions that no operator made, and that are there only for as long as a job needs them: of systems that
//! are cloned while they run. They have a project of their own, which nobody else can write to.

use super::{Images, StoreError};
use metalcast_shared::id::{ImageName, JobId, Revision};

/// The project.
pub const PROJECT: &str = "metalcast-clone";

/// The revision of a job. Its number is always the first: nothing stays of it.
pub fn of_job(job: JobId) -> Revision {
    let image = format!("{PROJECT}/job-{job}").parse().expect("a project and a number are a name");
    Revision { image, number: 1 }
}

/// Whether an image is one of these.
pub fn is_clone(image: &ImageName) -> bool {
    image.project() == PROJECT
}

/// That an image is an operator's.
///
/// # Errors
/// Why it is not, in one sentence.
pub fn check(image: &ImageName) -> Result<(), String> {
    match is_clone(image) {
        true => Err(format!(
            "images of project {PROJECT} come and go with the jobs that need them; choose another project"
        )),
        false => Ok(()),
    }
}

impl Images {
    /// All that there are.
    pub fn clones(&self) -> Result<Vec<Revision>, StoreError> {
        let mut revisions = self.layout.revisions()?;
        revisions.retain(|revision| is_clone(&revision.image));
        Ok(revisions)
    }

    /// Removes one, and that there ever was one. Nothing happens if it is not there.
    pub fn remove_clone(&self, revision: &Revision) -> Result<(), StoreError> {
        match self.remove(revision) {
            Ok(()) | Err(StoreError::NotFound(_)) => self.layout.forget(&revision.image),
            Err(error) => Err(error),
        }
    }
}
