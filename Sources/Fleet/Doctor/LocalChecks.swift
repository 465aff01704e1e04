import CLinux
import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// What this machine needs to have, whatever the destination.
package struct LocalChecks {
    private let home: String
    private let authority: String
    private let agent: Result<AgentBinary, AgentBinaryError>

    /// - Parameters:
    ///   - home: The directory with the operator's files.
    ///   - authority: The CA's directory.
    ///   - agent: The program that would be uploaded, or why it cannot be used.
    package init(home: String, authority: String, agent: Result<AgentBinary, AgentBinaryError>) {
        self.home = home
        self.authority = authority
        self.agent = agent
    }

    package func run() -> [Finding] {
        [
            homeDirectory(), certificateAuthority(), revocations(), enrolments(), agentProgram(), keyAgent(),
            descriptors(),
        ]
        .compactMap(\.self)
    }

    /// nil where none was cut.
    private func enrolments() -> Finding? {
        let ledger = Ledger("\(home)/ledger.sqlite")
        guard access(ledger.path, F_OK) == 0, let remarks = try? UnfinishedEnrolments(in: ledger).remarks,
            !remarks.isEmpty
        else { return nil }
        return .warning(
            "enrolments",
            remarks.joined(separator: "; "),
            fix: "bootstrap enroll again, or bootstrap revoke NAME"
        )
    }

    /// nil where there is nothing to compare.
    private func revocations() -> Finding? {
        let ledger = Ledger("\(home)/ledger.sqlite")
        guard access(ledger.path, F_OK) == 0, (try? EmbeddedCA.bundle(directory: authority)) != nil else { return nil }
        do throws(LedgerError) {
            let found = try ListComparison(directory: authority, ledger: ledger)
            if let remark = found.remark { return .failure("revocations", remark, fix: "bootstrap revoke") }
            if let remark = ListComparison.remark(onForeign: found.foreign) {
                return .warning("revocations", remark, fix: nil)
            }
            return .good("revocations", "ledger and list say the same")
        } catch {
            return .failure("revocations", error.message, fix: nil)
        }
    }

    private func homeDirectory() -> Finding {
        var status = stat()
        guard lstat(home, &status) == 0 else {
            return errno == ENOENT
                ? .good("home", "\(home) is not there yet; the first command makes it")
                : .failure(
                    "home",
                    "\(home): \(String(cString: strerror(errno)))",
                    fix: "set BOOTSTRAP_HOME to a directory of yours"
                )
        }
        guard status.st_mode & S_IFMT == S_IFDIR || status.st_mode & S_IFMT == S_IFLNK else {
            return .failure("home", "\(home) is no directory", fix: "move it away, or set BOOTSTRAP_HOME")
        }
        guard access(home, R_OK | W_OK | X_OK) == 0 else {
            return .failure("home", "\(home) cannot be written to", fix: "chown it to you, or set BOOTSTRAP_HOME")
        }
        guard status.st_mode & (S_IWGRP | S_IWOTH) == 0 else {
            return .failure("home", "others may write to \(home)", fix: "chmod go-w \(home)")
        }
        return .good("home", home)
    }

    private func certificateAuthority() -> Finding {
        let path = authority
        guard access("\(path)/root-cert.pem", F_OK) == 0 || access(path, F_OK) == 0 else {
            return .warning(
                "CA",
                "there is none in \(path)",
                fix: "bootstrap ca init --trust-domain mesh.example"
            )
        }
        do throws(IdentityError) {
            let bundle = try EmbeddedCA.bundle(directory: path)
            let now = WallClock.system.seconds
            guard let last = bundle.roots.map(\.notAfter).max() else {
                return .failure("CA", "\(path) has no certificate", fix: "restore it from a backup")
            }
            if last <= now {
                return .failure(
                    "CA",
                    "its certificate ended at \(Timestamp.text(last))",
                    fix: "bootstrap ca rotate, then bootstrap renew --all"
                )
            }
            if last - now < 30 * 86_400 {
                return .warning(
                    "CA",
                    "its certificate ends at \(Timestamp.text(last))",
                    fix: "bootstrap ca rotate, then bootstrap renew --all"
                )
            }
            if let finding = signingKey() { return finding }
            return .good("CA", "\(path), trust domain \(bundle.trustDomain), until \(Timestamp.text(last))")
        } catch {
            return .failure("CA", error.message, fix: "restore \(path) from a backup, or name another with --ca")
        }
    }

    /// What it signs with; nil where nothing is wrong with it.
    private func signingKey() -> Finding? {
        let file = "\(authority)/\(EmbeddedCA.keyFile)"
        var status = stat()
        guard stat(file, &status) == 0 else {
            return .failure(
                "CA",
                "\(file): \(String(cString: strerror(errno))): nothing can be signed without it",
                fix: "restore it from a backup; docs/identity.md says what to do where there is none"
            )
        }
        guard status.st_mode & 0o077 == 0 else {
            return .failure(
                "CA",
                "others may use \(file) (mode \(String(status.st_mode & 0o777, radix: 8)))",
                fix: "chmod 600 \(file); if it may have been read: bootstrap ca rotate, then bootstrap renew --all"
            )
        }
        guard access(file, R_OK) == 0 else {
            return .failure("CA", "\(file): \(String(cString: strerror(errno)))", fix: "chown it to you")
        }
        return nil
    }

    private func agentProgram() -> Finding {
        do throws(AgentBinaryError) {
            let agent = try agent.get()
            guard let interpreter = agent.interpreter else {
                return .good("agent", "\(agent.path), \(agent.size >> 20) MiB, static, \(agent.architecture)")
            }
            return .warning(
                "agent",
                "\(agent.path) is linked dynamically: it needs \(interpreter) and glibc \(agent.glibcVersion ?? "?") on every device",
                fix: "make static, and keep dist/bootstrap-linux-\(agent.architecture) beside this program"
            )
        } catch {
            // As for whoever names a file that cannot be used.
            return .failure("agent", error.message, fix: "name the program to upload with --agent-binary", .usage)
        }
    }

    private func keyAgent() -> Finding {
        guard let path = getenv("SSH_AUTH_SOCK").map({ String(cString: $0) }), !path.isEmpty else {
            return .good("ssh-agent", "none (SSH_AUTH_SOCK is not set); key files are used")
        }
        guard access(path, R_OK | W_OK) == 0 else {
            return .warning(
                "ssh-agent",
                "SSH_AUTH_SOCK names \(path), which is not there",
                fix: "start an agent (eval $(ssh-agent); ssh-add), or unset SSH_AUTH_SOCK"
            )
        }
        return .good("ssh-agent", path)
    }

    private func descriptors() -> Finding {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
            return .good("descriptors", "the limit is not known")
        }
        return limit.rlim_max < 1024
            ? .warning(
                "descriptors",
                "at most \(limit.rlim_max)",
                fix: "ulimit -Hn 65536 for hundreds of devices at a time"
            )
            : .good("descriptors", "at most \(limit.rlim_max)")
    }
}
