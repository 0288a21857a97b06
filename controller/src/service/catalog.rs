//! What the service has to know of images. The images' own store implements it; so does the tests'
//! list of made-up ones.

use crate::images::DiskImage;
use metalcast_formats::tar;
use metalcast_shared::{
    id::{ImageName, Revision},
    manifest::{Manifest, SignedManifest},
};

/// Images, as far as planning, handing out and removing goes. Calls may block on a disk.
pub trait Catalog: Send + Sync + 'static {
    /// The newest revision of an image.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn latest(&self, image: &ImageName) -> anyhow::Result<Option<Revision>>;

    /// The manifest of a revision, if there is such a one.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn manifest(&self, revision: &Revision) -> anyhow::Result<Option<(Manifest, SignedManifest)>>;

    /// What a revision, which exists, says of its whole disk; the inner error is why it is none of one.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn whole_disk(&self, revision: &Revision) -> anyhow::Result<Result<DiskImage, String>>;

    /// What a tar archive of a revision, which exists, says of itself.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn archive_index(&self, revision: &Revision, partition: &str) -> anyhow::Result<tar::Index>;

    /// Removes a revision; `false` if there is none.
    ///
    /// # Errors
    /// When its files cannot be removed.
    fn remove(&self, revision: &Revision) -> anyhow::Result<bool>;

    /// The revisions that are there only for as long as a job needs them.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn clones(&self) -> anyhow::Result<Vec<Revision>>;

    /// Removes one of those, and that there ever was one.
    ///
    /// # Errors
    /// When its files cannot be removed.
    fn remove_clone(&self, revision: &Revision) -> anyhow::Result<()>;
}
