//! Standard streams at their edges: loggers that fail, terminals, readers that never come, files in common.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::ttrpc::context::Context;
use pea_shim::client::{Error, Stdio, TaskStatus};
use support::pod::{Pod, exec_to_end, process, program, run, shell};
use support::{alive, eventually, open_files, processes, status_field};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

fn fifo(pod: &Pod, name: &str) -> String {
    let path = pod.dir.path().join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path.display().to_string()
}

fn children(pod: &Pod) -> usize {
    fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.shim_pid)).unwrap().split_whitespace().count()
}

fn logged_by(scheme: &str, logger: &Path) -> Stdio {
    let address = format!("{scheme}://{}", logger.display());
    Stdio { stdout: address.clone(), stderr: address, ..Stdio::default() }
}

/// Processes that a logger of this directory is.
fn loggers(logger: &Path) -> Vec<u32> {
    let path = logger.display().to_string();
    processes(|words| words.contains(&path))
}

#[test]
fn two_containers_append_both_their_outputs_to_one_file() {
    run(async {
        let pod = Pod::start().await;
        // Its directory is made.
        let file = pod.dir.path().join("logs/of/all");
        let address = format!("file://{}", file.display());
        for name in ["one", "two"] {
            let stdio = Stdio { stdout: address.clone(), stderr: address.clone(), ..Stdio::default() };
            let script = format!("echo {name}; echo {name} failed >&2");
            pod.start_container(name, &["sh", "-c", &script], stdio).await;
            pod.finish(name).await;
        }
        let mut lines: Vec<String> = fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
        lines[..2].sort();
        lines[2..].sort();
        assert_eq!(lines, ["one", "one failed", "two", "two failed"]);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640, "a log is not for everybody");
        pod.end().await;
    });
}

#[test]
fn a_full_disk_costs_the_log_and_not_the_container() {
    run(async {
        let pod = Pod::start().await;
        // Written at last, so that it can be seen to have come that far.
        let stdout = fifo(&pod, "out");
        let full = pod.dir.path().join("full");
        fs::create_dir(&full).unwrap();
        let mount =
            nix::mount::mount(Some("full"), &full, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=4096"));
        mount.unwrap();
        let stdio = Stdio { stdout, stderr: format!("file://{}/log", full.display()), ..Stdio::default() };
        let mut reader = pipe::OpenOptions::new().open_receiver(&stdio.stdout).unwrap();
        pod.start_container("c", &["sh", "-c", "seq 100000 >&2; echo $?; exit 3"], stdio).await;
        let mut said = [0; 2];
        reader.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"0\n", "a write failed");
        assert_eq!(pod.finish("c").await.status, 3);
        let length = fs::metadata(full.join("log")).unwrap().len();
        nix::mount::umount(&full).unwrap();
        assert_eq!(length, 4096);
        pod.end().await;
    });
}

#[test]
fn an_output_fifo_that_nobody_ever_opens_holds_nobody_up() {
    run(async {
        let pod = Pod::start().await;
        let stdio =
            Stdio { stdin: fifo(&pod, "in"), stdout: fifo(&pod, "out"), stderr: fifo(&pod, "err"), terminal: false };
        let files = open_files(pod.shim_pid);
        let begin = Instant::now();
        pod.start_container("c", &["sh", "-c", "echo words; echo words >&2; exit 3"], stdio).await;
        assert_eq!(pod.finish("c").await.status, 3);
        assert!(begin.elapsed() < Duration::from_secs(9), "it took {:?}", begin.elapsed());
        assert_eq!(open_files(pod.shim_pid), files);
        let absent = Stdio { stdout: pod.dir.path().join("absent").display().to_string(), ..Stdio::default() };
        let refused = pod.create("d", &["true"], absent).await;
        assert!(matches!(&refused, Err(Error::NotFound(why)) if why.contains("absent")), "{refused:?}");
        pod.end().await;
    });
}

#[test]
fn a_reader_that_comes_after_the_end_gets_the_output_and_its_end() {
    read_after_the_end();
}

#[test]
fn a_late_reader_gets_the_output_also_where_no_inotify_instance_is_left() {
    support::without_inotify();
    read_after_the_end();
}

fn read_after_the_end() {
    run(async {
        let pod = Pod::start().await;
        let stdio = Stdio { stdout: fifo(&pod, "out"), ..Stdio::default() };
        let id = pod.container_id("c");
        pod.start_container("c", &["echo", "words"], stdio.clone()).await;
        assert_eq!(pod.shim.wait(&id, None).await.unwrap().status, 0);
        // Like containerd's own it opens to wait for a writer, and is told of the end by its leaving.
        let reading = std::thread::spawn(move || fs::read_to_string(stdio.stdout).unwrap());
        eventually("the reader has all and the end", || reading.is_finished());
        assert_eq!(reading.join().unwrap(), "words\n");
        pod.finish("c").await;
        pod.end().await;
    });
}

#[test]
fn the_readers_of_all_outputs_are_waited_for_at_the_same_time() {
    run(async {
        let pod = Pod::start().await;
        let stdio = Stdio { stdout: fifo(&pod, "out"), stderr: fifo(&pod, "err"), ..Stdio::default() };
        let begin = Instant::now();
        pod.create("c", &["sleep", "1000"], stdio).await.unwrap();
        let took = begin.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&took), "a second for both, not {took:?}");
        pod.end().await;
    });
}

#[test]
fn a_reader_that_came_late_and_has_left_is_not_waited_for_again() {
    run(async {
        let pod = Pod::start().await;
        let stdio = Stdio { stdout: fifo(&pod, "out"), ..Stdio::default() };
        let (id, path) = (pod.container_id("c"), stdio.stdout.clone());
        // Started when the reader has been given up for the time being.
        pod.start_container("c", &["sh", "-c", "echo words; exec sleep 1000"], stdio).await;
        let mut reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        let mut said = [0; 6];
        reader.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"words\n");
        drop(reader);
        pod.shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        pod.shim.wait(&id, None).await.unwrap();
        let begin = Instant::now();
        pod.shim.delete(&id, None).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "the delete took {:?}", begin.elapsed());
        pod.end().await;
    });
}

#[test]
fn a_process_whose_reader_is_waited_for_can_be_called_off() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let files = open_files(pod.shim_pid);
        let stdio = Stdio { stdout: fifo(&pod, "out"), stderr: fifo(&pod, "err"), ..Stdio::default() };
        pod.shim.exec(&id, "e", &shell("true"), &stdio).await.unwrap();
        let starting = tokio::spawn({
            let (shim, id) = (pod.shim.clone(), id.clone());
            async move { shim.start(&id, Some("e")).await }
        });
        // Refused until the start is under way.
        while pod.shim.kill(&id, Some("e"), libc::SIGKILL as u32, false).await.is_err() {}
        let begin = Instant::now();
        let refused = starting.await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("killed before it was up"), "{refused}");
        // Its readers are waited for, for a second.
        assert!(begin.elapsed() < Duration::from_secs(1), "called off after {:?} only", begin.elapsed());
        pod.shim.delete(&id, Some("e")).await.unwrap();
        assert_eq!(open_files(pod.shim_pid), files);
        pod.end().await;
    });
}

#[test]
fn a_logger_that_dies_is_reaped_and_its_container_goes_on() {
    run(async {
        let pod = Pod::start().await;
        let logger = program(&pod, "mortal", "printf r >&5; exec 5>&-; head -n 1 <&3 >/dev/null; exit 1");
        let script = "trap '' PIPE; echo first; while echo more 2>/dev/null; do sleep 0.01; done; exit 4";
        pod.start_container("c", &["sh", "-c", script], logged_by("binary-v2", &logger)).await;
        // Its output fails as into any broken pipe, of which it hears; the shim is as before.
        assert_eq!(pod.finish("c").await.status, 4);
        eventually("the logger is reaped", || children(&pod) == 0);
        assert_eq!(status_field(pod.shim_pid, "Threads"), "1");
        pod.end().await;
    });
}

#[test]
fn a_logger_that_never_gets_ready_is_given_up_and_can_be_called_off() {
    run(async {
        let pod = Pod::start().await;
        pod.start_container("other", &["sleep", "1000"], Stdio::default()).await;
        let silent = program(&pod, "silent", "exec /bin/sleep 86395");
        let (shim, id) = (pod.shim.clone(), pod.container_id("killed"));
        let creating = pod.create("killed", &["true"], logged_by("binary-v2", &silent));
        let meanwhile = async {
            while !matches!(shim.state(&id, None).await, Ok(state) if state.status == TaskStatus::Created) {}
            shim.kill(&id, None, libc::SIGKILL as u32, false).await.unwrap();
        };
        let begin = Instant::now();
        let (created, ()) = tokio::join!(creating, meanwhile);
        assert!(created.unwrap_err().to_string().contains("killed") && begin.elapsed() < Duration::from_secs(8));

        let begin = Instant::now();
        let refused = pod.create("late", &["true"], logged_by("binary-v2", &silent)).await.unwrap_err();
        assert!(refused.to_string().contains("not ready within 10s"), "{refused}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        let sleepers = || processes(|words| words.iter().any(|word| word == "86395"));
        eventually("both have been ended", || sleepers().is_empty());
        eventually("both are reaped", || children(&pod) == 1);
        pod.end().await;
    });
}

#[test]
fn a_logger_that_does_not_heed_sigterm_is_killed() {
    run(async {
        let pod = Pod::start().await;
        let deaf = program(&pod, "deaf", "trap '' TERM; printf r >&5; exec 5>&-; while :; do /bin/sleep 0.05; done");
        pod.start_container("c", &["true"], logged_by("binary", &deaf)).await;
        let begin = Instant::now();
        pod.finish("c").await;
        assert!(begin.elapsed() < Duration::from_secs(8), "the delete waited {:?} for a logger", begin.elapsed());
        assert_eq!(loggers(&deaf).len(), 1, "it has gone already");
        eventually("it has been killed", || loggers(&deaf).is_empty());
        eventually("it is reaped", || children(&pod) == 0);
        pod.end().await;
    });
}

#[test]
fn a_logger_has_nothing_but_its_pipes_and_one_address_is_one_logger() {
    run(async {
        let pod = Pod::start().await;
        let seen = pod.dir.path().join("seen");
        let text = format!(
            "{{ echo $$; /bin/ls /proc/self/fd | /usr/bin/tr '\\n' ' '; /usr/bin/env; }} >> {}; exec 5>&-\n\
             /bin/cat <&3 > /dev/null; exec /bin/cat <&4 > /dev/null",
            seen.display()
        );
        let logger = program(&pod, "curious", &text);
        pod.start_container("c", &["echo"], logged_by("binary", &logger)).await;
        pod.finish("c").await;
        let seen = fs::read_to_string(&seen).unwrap();
        let lines: Vec<&str> = seen.lines().collect();
        // The sixth is ls's own, of the directory.
        assert!(lines[1].starts_with("0 1 2 3 4 5 6 "), "{seen}");
        assert!(lines[1].split_whitespace().filter(|word| word.parse::<u32>().is_ok()).count() <= 7, "{seen}");
        assert!(seen.contains("CONTAINER_NAMESPACE=test") && !seen.contains("CARGO"), "{seen}");
        assert_eq!(seen.matches("CONTAINER_ID=").count(), 1, "two loggers for one address: {seen}");
        pod.end().await;
    });
}

#[test]
fn a_terminal_of_an_init_has_input_size_and_output_in_one() {
    run(async {
        let pod = Pod::start().await;
        let stdio = Stdio { stdin: fifo(&pod, "in"), stdout: fifo(&pod, "out"), stderr: String::new(), terminal: true };
        let mut output = pipe::OpenOptions::new().open_receiver(&stdio.stdout).unwrap();
        let input = stdio.stdin.clone();
        let script = "stty -echo; tty; read a; stty size; echo $a >&2; read b; echo $b; exit 6";
        pod.start_container("c", &["sh", "-c", script], stdio).await;
        let id = pod.container_id("c");
        let mut input = pipe::OpenOptions::new().open_sender(input).unwrap();
        let mut line = [0; 12];
        output.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"/dev/pts/0\r\n");
        pod.shim.resize(&id, None, 132, 43).await.unwrap();
        let huge = pod.shim.resize(&id, None, 70_000, 1).await;
        assert!(matches!(huge, Err(Error::InvalidArgument(_))), "{huge:?}");
        input.write_all(b"one\n").await.unwrap();
        // Closed, the terminal stays what it is: what was written is read, and the process goes on.
        pod.shim.close_io(&id, None).await.unwrap();
        input.write_all(b"two\n").await.unwrap();
        drop(input);
        let mut rest = String::new();
        output.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "43 132\r\none\r\ntwo\r\n");
        assert_eq!(pod.finish("c").await.status, 6);
        assert!(
            fs::read_dir(pod.bundle("c")).unwrap().flatten().all(|entry| !entry
                .file_name()
                .to_str()
                .unwrap()
                .starts_with("pty"))
        );
        pod.end().await;
    });
}

#[test]
fn terminals_side_by_side_are_not_mixed_up() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let execs = (0..8u32).map(|n| {
            let (shim, id) = (pod.shim.clone(), id.clone());
            let file = pod.dir.path().join(format!("tty{n}"));
            let stdio = Stdio { stdout: format!("file://{}", file.display()), terminal: true, ..Stdio::default() };
            tokio::spawn(async move {
                let script = shell(&format!("test -t 0 && test -t 1 && test -t 2 && echo terminal {n}"));
                assert_eq!(exec_to_end(&shim, &id, &format!("e{n}"), &script, &stdio).await, 0);
                assert_eq!(fs::read_to_string(file).unwrap(), format!("terminal {n}\r\n"));
            })
        });
        for exec in execs.collect::<Vec<_>>() {
            exec.await.unwrap();
        }
        pod.end().await;
    });
}

/// Without a terminal asked for there is none, whatever the process's own words are.
#[test]
fn the_request_decides_about_the_terminal() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let (stdio, _) = pod.log("log");
        let mut wants = process(&["sh", "-c", "test -t 1"]);
        wants.set_terminal(Some(true));
        assert_eq!(exec_to_end(&pod.shim, &id, "without", &wants, &stdio).await, 1);
        wants.set_terminal(None);
        let stdio = Stdio { terminal: true, ..stdio };
        assert_eq!(exec_to_end(&pod.shim, &id, "with", &wants, &stdio).await, 0);
        pod.end().await;
    });
}

#[test]
fn input_that_was_closed_before_the_start_ends_when_it_has_been_read() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let (stdio, log) = pod.log("log");
        let stdio = Stdio { stdin: fifo(&pod, "in"), ..stdio };
        // The FIFO is kept open here, so that what is in it stays.
        let keep = fs::File::options().read(true).write(true).open(&stdio.stdin).unwrap();
        fs::write(&stdio.stdin, "words\n").unwrap();
        pod.shim.exec(&id, "e", &process(&["cat"]), &stdio).await.unwrap();
        pod.shim.close_io(&id, Some("e")).await.unwrap();
        let (shim, of) = (pod.shim.clone(), id.clone());
        let waiting = tokio::spawn(async move { shim.wait(&of, Some("e")).await });
        pod.shim.start(&id, Some("e")).await.unwrap();
        eventually("the words are through", || fs::read_to_string(&log).is_ok_and(|log| log.ends_with("words\n")));
        // The shim holds the FIFO open no longer: with the last writer it ends.
        drop(keep);
        assert_eq!(waiting.await.unwrap().unwrap().status, 0);
        pod.end().await;
    });
}

#[test]
fn what_closes_something_else_than_input_leaves_it_open() {
    run(async {
        let pod = Pod::start().await;
        let id = pod.container_id("c");
        pod.start_container("c", &["sleep", "1000"], Stdio::default()).await;
        let (stdio, log) = pod.log("log");
        let stdio = Stdio { stdin: fifo(&pod, "in"), ..stdio };
        pod.shim.exec(&id, "e", &process(&["cat"]), &stdio).await.unwrap();
        pod.shim.start(&id, Some("e")).await.unwrap();
        let request = api::CloseIORequest { id: id.clone(), exec_id: "e".into(), stdin: false, ..Default::default() };
        support::wire::tasks(&pod).await.close_io(Context::default(), &request).await.unwrap();
        // A client comes and goes; only with the wish to close is there an end.
        for words in ["one\n", "two\n"] {
            fs::write(&stdio.stdin, words).unwrap();
            eventually("the words are through", || fs::read_to_string(&log).is_ok_and(|log| log.ends_with(words)));
        }
        assert_eq!(pod.shim.state(&id, Some("e")).await.unwrap().status, TaskStatus::Running);
        pod.shim.close_io(&id, Some("e")).await.unwrap();
        assert_eq!(pod.shim.wait(&id, Some("e")).await.unwrap().status, 0);
        pod.end().await;
    });
}

#[test]
fn a_process_that_reads_no_more_holds_up_neither_its_end_nor_the_shim() {
    run(async {
        let pod = Pod::start().await;
        let stdin = fifo(&pod, "in");
        let files = open_files(pod.shim_pid);
        let writer = fs::File::options().read(true).write(true).open(&stdin).unwrap();
        let stdio = Stdio { stdin: stdin.clone(), ..Stdio::default() };
        let init = pod.start_container("c", &["sh", "-c", "exec 0<&-; sleep 0.2; exit 5"], stdio).await;
        let flood = std::thread::spawn(move || {
            use std::io::Write;
            let mut writer = writer;
            // More than a FIFO and a pipe hold; blocks for as long as nobody reads, which no test waits for.
            let _ = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK));
            let end = Instant::now() + Duration::from_millis(300);
            while Instant::now() < end {
                let _ = writer.write(&[b'x'; 4096]);
            }
        });
        assert_eq!(pod.finish("c").await.status, 5);
        flood.join().unwrap();
        assert!(!alive(init));
        assert_eq!(open_files(pod.shim_pid), files, "the shim keeps descriptors of a process that is gone");
        let ticks = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pod.shim_pid)).unwrap();
            // From the state on; utime and stime (proc_pid_stat(5)).
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            let number = |n: usize| fields[n].parse::<u64>().unwrap();
            number(11) + number(12)
        };
        let before = ticks();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(ticks() - before < 10, "the shim turns in circles");
        pod.end().await;
    });
}

#[test]
fn what_is_refused_of_a_stream_leaves_no_logger_and_no_file_open() {
    run(async {
        let pod = Pod::start().await;
        let logger = program(&pod, "logger", "printf r >&5; exec 5>&-; exec /bin/cat <&3 > /dev/null");
        let files = open_files(pod.shim_pid);
        let odd: [(&str, PathBuf); 2] =
            [("a directory", pod.dir.path().into()), ("absent", pod.dir.path().join("no/x"))];
        for (what, path) in odd {
            let mut stdio = logged_by("binary", &logger);
            stdio.stderr = path.display().to_string();
            let refused = pod.create("c", &["true"], stdio).await.unwrap_err();
            assert!(refused.to_string().contains(path.to_str().unwrap()), "{what}: {refused}");
            eventually("its logger is ended", || loggers(&logger).is_empty());
            eventually("its logger is reaped", || children(&pod) == 0);
            assert_eq!(open_files(pod.shim_pid), files, "{what}");
        }
        pod.end().await;
    });
}

#[test]
fn a_logger_is_in_the_nodes_namespaces_and_not_in_the_pods() {
    run(async {
        let pod = Pod::start().await;
        let file = pod.dir.path().join("namespaces");
        let text = format!(
            "for n in ipc net uts; do readlink /proc/self/ns/$n; done > {}; printf r >&5; exec 5>&-; cat <&3 >/dev/null",
            file.display()
        );
        let logger = program(&pod, "at-home", &text);
        pod.start_container("c", &["true"], logged_by("binary-v2", &logger)).await;
        pod.finish("c").await;
        let of = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().display().to_string();
        let nodes: Vec<String> = ["ipc", "net", "uts"].map(|name| of("self", name)).into();
        assert_ne!(nodes[1], of(&pod.shim_pid.to_string(), "net"));
        assert_eq!(fs::read_to_string(&file).unwrap().lines().collect::<Vec<_>>(), nodes);
        pod.end().await;
    });
}
