//! `pea checkpoint`

use std::path::PathBuf;

use clap::Args;

use super::Global;
use crate::error::{Error, ErrorKind};
use crate::{CheckpointOptions, CriuOptions, Runtime};

/// What `checkpoint` and `restore` have in common.
#[derive(Debug, Args)]
pub struct Images {
    /// The directory of the images
    #[arg(long, default_value = "checkpoint", value_name = "DIR")]
    image_path: PathBuf,
    /// The directory of logs and other by-products [default: that of the images]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Keep established TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow Unix sockets whose other end is outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session from outside, and its terminal
    #[arg(long)]
    shell_job: bool,
    /// Keep file locks
    #[arg(long)]
    file_locks: bool,
    /// Give deleted files that are still open a name again
    #[arg(long)]
    link_remap: bool,
    /// Drop pages from earlier images once later ones have them
    #[arg(long)]
    auto_dedup: bool,
    /// Serve or take memory when it is first used
    #[arg(long)]
    lazy_pages: bool,
    /// How cgroups are dumped and restored
    #[arg(long, value_name = "MODE", default_value = "soft", value_parser = ["soft", "full", "strict", "ignore"])]
    manage_cgroups_mode: String,
    /// Keep of this namespace only that there is one
    #[arg(long, value_name = "KIND", value_parser = ["network"])]
    empty_ns: Option<String>,
}

impl Images {
    /// Whether its terminal is the caller's.
    pub fn is_shell_job(&self) -> bool {
        self.shell_job
    }

    /// The library's view of it.
    pub fn options(&self, global: &Global) -> CriuOptions {
        CriuOptions {
            program: global.criu.clone(),
            work: self.work_path.clone(),
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            link_remap: self.link_remap,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            manage_cgroups: Some(self.manage_cgroups_mode.clone()),
            // CRIU's own name for it.
            empty_namespace: self.empty_ns.as_ref().map(|_| "net".to_owned()),
            ..CriuOptions::new(&self.image_path)
        }
    }
}

/// Write a running container's processes to files, by means of CRIU
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    images: Images,
    /// Images of an earlier --pre-dump, relative to --image-path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the container go on; otherwise it is deleted
    #[arg(long)]
    leave_running: bool,
    /// Only the memory, and let the container go on
    #[arg(long)]
    pre_dump: bool,
    /// Leave TCP connections out that are being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Where the memory is sent instead of into a file
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    page_server: Option<(String, u16)>,
    /// A descriptor that gets a zero byte when lazy pages can be asked for
    #[arg(long, value_name = "FD", default_value_t = -1, hide_default_value = true)]
    status_fd: i32,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, global: &Global, arguments: &Arguments) -> Result<(), Error> {
    if arguments.images.lazy_pages && arguments.page_server.is_none() {
        return Err(Error::new(ErrorKind::InvalidArgument, "--lazy-pages needs --page-server"));
    }
    check_parent(arguments)?;
    let options = CheckpointOptions {
        criu: arguments.images.options(global),
        parent: arguments.parent_path.clone(),
        leave_running: arguments.leave_running,
        pre_dump: arguments.pre_dump,
        tcp_skip_in_flight: arguments.tcp_skip_in_flight,
        page_server: arguments.page_server.clone(),
        status_fd: u32::try_from(arguments.status_fd).is_ok().then_some(arguments.status_fd),
    };
    runtime.checkpoint(&arguments.id, &options)
}

/// CRIU makes a link of it beside the new images, which has to lead there wherever both are moved to.
fn check_parent(arguments: &Arguments) -> Result<(), Error> {
    let Some(parent) = &arguments.parent_path else { return Ok(()) };
    let problem = match (parent.is_absolute(), arguments.images.image_path.join(parent).is_dir()) {
        (true, _) => "must be relative to --image-path",
        (false, false) => "is no directory beside the images",
        (false, true) => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidArgument, format!("--parent-path {} {problem}", parent.display())))
}

fn page_server(text: &str) -> Result<(String, u16), String> {
    let (address, port) = text.rsplit_once(':').ok_or("ADDRESS:PORT is wanted")?;
    let port = port.parse().map_err(|error| format!("port {port:?}: {error}"))?;
    Ok((address.to_owned(), port))
}
