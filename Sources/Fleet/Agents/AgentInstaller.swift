import Platform
import SSHSignal

/// Puts the agent on a machine, so that at every moment the old release or the new one is whole:
///
///     ROOT/.lock/owner                     one enrolment at a time, to its end: its shell's process number, which is the agent's later, and
///                                          the machine's boot ID
///     ROOT/RELEASE/bootstrap.part.NONCE    uploaded, its length and hash checked, run once
///     ROOT/RELEASE/bootstrap               renamed from it
///
/// Which release is in use is decided by the agent itself, once its node is up (``AgentReleases``).
///
/// A cut at any step leaves at worst a `.part` file and a lock whose owner is gone; the next installer removes both.
struct AgentInstaller: Sendable {
    let shell: RemoteShell
    let plan: InstallationPlan

    private var setup: String {
        """
        export LC_ALL=C
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        umask 022
        root=\(ShellScript.quote(plan.root))
        dir="$root/"\(ShellScript.quote(plan.release))
        lock="$root/.lock"
        boot=; read -r boot 2>/dev/null </proc/sys/kernel/random/boot_id
        refuse() { echo "error=$1"; exit 1; }
        """
    }

    /// Takes the lock, or says who has it, and removes what a cut installation left.
    ///
    /// - Parameter checking: Whether root refuses a directory in which, or above which, others can write: where it is
    ///   to put something there. Who takes away what is there does not look.
    /// - Returns: whether there was any.
    func lock(checking: Bool = true) async throws -> Bool {
        let output = try await step(
            "lock",
            """
            [ -d "$root" ] || why=$(mkdir -p "$root" 2>&1) || refuse "$root cannot be made: $why"
            \(checking ? Self.strictness : "")
            tries=0
            why=
            # What another has done here while this one waited is not undone by it.
            identity() { ls -ld "$root/state/identity/..data" "$root/..data" 2>/dev/null; }
            before=$(identity)
            # An owner before that is just leaving can take the new directory away before there is a name in it: once more then.
            until why=$(mkdir "$lock" 2>&1) && why=$( { echo "$$ $boot $(date +%s)" >"$lock/owner"; } 2>&1 ); do
              # A directory without its owner's name may have been made just now, and an owner whose connection was cut may be
              # about to notice: both get some seconds.
              pid= ; theirs= ; since=
              [ -f "$lock/owner" ] && read -r pid theirs since <"$lock/owner" 2>/dev/null
              alive=
              [ -n "$pid" ] && [ "$theirs" = "$boot" ] && [ -d "/proc/$pid" ] && alive=1
              if [ $tries -lt 3 ] && { [ -z "$pid" ] || [ -n "$alive" ]; }; then
                tries=$((tries+1))
                sleep 1
                continue
              fi
              if [ -n "$alive" ]; then
                refuse "another bootstrap (process $pid on the device, since $(( ($(date +%s) - ${since:-0}) / 60 )) min) is installing there, or enrolling it; try again when it is done"
              fi
              # Only one of several gets to move it away.
              if [ -e "$lock" ]; then
                why=$(mv "$lock" "$lock.stale.$$" 2>&1) && rm -rf "$lock.stale.$$" && echo "stale=1"
              fi
              tries=$((tries+1))
              [ $tries -lt 8 ] || case "$why" in
                *"Read-only file system"*) refuse "$root is on a file system that cannot be written now: $why";;
                *"No space left"*) refuse "there is no room in $root: $why";;
              esac
              [ $tries -lt 8 ] || [ -e "$lock" ] || refuse "$lock cannot be made: $why"
              [ $tries -lt 8 ] || refuse "$lock cannot be taken${why:+: $why}; remove it by hand"
            done
            if [ "$before" != "$(identity)" ]; then
              rm -rf "$lock"
              refuse "another bootstrap was enrolling this device, and has just given it a certificate; try again if it is to have another"
            fi
            for f in "$root"/*/bootstrap.part.*; do
              [ -e "$f" ] && rm -f "$f" && echo "recovered=$f"
            done
            true
            """
        )
        return output.lines.contains { $0.hasPrefix("stale=") || $0.hasPrefix("recovered=") }
    }

    /// The probe has looked at what was there then. In a sticky directory everybody can make what was not, before root
    /// does: what is there now counts. From here on nobody else can change it.
    private static let strictness = """
        \(StrictDirectories.functions)
        why=
        [ "$(id -u)" != 0 ] || why=$(foreign "$root")
        [ -z "$why" ] || refuse "$why. Nothing was written there; name another directory, in which and above which only root can write"
        """

    /// Has the agent take over the shell's channel as `bootstrap signal`. Its process is the shell's still, and so is
    /// the lock: the agent takes that away when the conversation is over.
    func startSignaling() async throws {
        let agent = ShellScript.quote(plan.agentPath)
        try await shell.replace(
            by: "\(agent) signal --state \(ShellScript.quote(plan.statePath))",
            after: ":"
        )
    }

    /// Uploads, checks, runs once and puts in place, beside what is in use.
    ///
    /// Compressed where that pays: what comes out of the decompression cannot grow much beyond the size that is
    /// expected, and its hash is checked like that of plain bytes. Where something else comes out, the next form is
    /// sent, and at last the plain bytes.
    ///
    /// - Parameter warn: Told once of each form that is not sent any more.
    func install(
        _ agent: AgentBinary,
        warn: @Sendable (String) -> Void,
        progress: @escaping @Sendable (Int, Int) -> Void
    ) async throws {
        var forms = plan.uploadForms
        while let (form, bytes) = await agent.forms.first(of: forms, making: plan.makesForms) {
            guard let fault = try await upload(bytes, form, of: agent, progress) else { return }
            if let warning = agent.forms.distrust(form, because: fault) { warn(warning) }
            forms.removeAll { $0 == form }
        }
        _ = try await upload(agent.bytes, nil, of: agent, progress)
    }

    /// - Parameter form: The compressed form that `payload` is; nil: the agent's own bytes.
    /// - Returns: What is wrong with the form; nil: the agent is in place.
    private func upload(
        _ payload: [UInt8],
        _ form: UploadForm?,
        of agent: AgentBinary,
        _ progress: @escaping @Sendable (Int, Int) -> Void
    ) async throws -> String? {
        // What a decompression leaves is read, too: it is not to be taken for commands.
        let decompression = form.map { " | { ( \(Self.undo($0, size: agent.size)) ); cat >/dev/null; }" } ?? ""
        let giveUp = form == nil ? ":" : #"rm -f "$part"; rmdir "$dir" 2>/dev/null; echo "faulty=$1"; exit 0"#
        let kilobytes = agent.size / 1024
        let nonce = String(UInt32.random(in: .min ... .max), radix: 16)
        let script = """
            \(setup)
            part="$dir/bootstrap.part.\(nonce)"
            # After a cut somebody else may be at work by now: what is not ours any more is left alone.
            fail() {
              rm -f "$part"
              owner=
              [ -f "$lock/owner" ] && read -r owner theirs since <"$lock/owner" 2>/dev/null
              [ "$owner" = "$$" ] && { rmdir "$dir" 2>/dev/null; rm -rf "$lock"; }
              refuse "$1"
            }
            # What came compressed may come otherwise, with the lock held. After a cut nothing comes, and this shell ends.
            faulty() { \(giveUp); }
            why=$(mkdir -p "$dir" 2>&1) || fail "$dir cannot be made: $why"
            why=$( (umask 077; : >"$part") 2>&1) || fail "$part cannot be made: $why"
            echo "$ready"
            why=$( { head -c \(payload.count)\(decompression) >"$part"; } 2>&1 )
            size=$(wc -c <"$part" 2>/dev/null)
            if [ "${size:-0}" -ne \(agent.size) ]; then
              free=$(df -Pk "$dir" 2>/dev/null | sed -n '$s/.*[ ]\\([0-9][0-9]*\\)  *[0-9][0-9]*% .*/\\1/p')
              text="only ${size:-0} of \(agent.size) bytes arrived or could be written (free: ${free:-unknown} KiB) $why"
              [ $((${free:-0} + ${size:-0} / 1024)) -le \(kilobytes) ] || faulty "$text"
              fail "$text"
            fi
            sum=$( { openssl dgst -sha256 -r <"$part" || sha256sum <"$part"; } 2>/dev/null )
            if [ "${sum%% *}" != \(agent.sha256) ]; then
              text="the file on the device differs from what was sent (SHA-256 ${sum%% *})"
              faulty "$text"
              fail "$text"
            fi
            chmod 755 "$part" || fail "$part cannot be made executable"
            why=$("$part" --version 2>&1 </dev/null)
            status=$?
            [ $status = 0 ] || fail "the agent does not run there (status $status): $why"
            why=$(mv -f "$part" "$dir/bootstrap" 2>&1) || fail "$dir/bootstrap cannot be replaced: $why"
            """
        let output = try await shell.run(
            script,
            sending: Chunks(bytes: payload),
            step: "upload",
            progress: { progress($0, payload.count) }
        )
        try check(output, step: "upload")
        return output.values["faulty"].map { Printable.clean($0, limit: 200) }
    }

    /// The limit of a file's size costs nothing; another program that counts would copy every byte once more. It is
    /// counted in blocks of 512 bytes, in some shells of 1,024.
    private static func undo(_ form: UploadForm, size: Int) -> String {
        let program = form.decompression
        return
            "if ulimit -f \(size / 512 + 1) 2>/dev/null; then exec \(program); else \(program) | head -c \(size + 1); fi"
    }

    @discardableResult
    private func step(_ name: String, _ script: String) async throws -> RemoteShell.Output {
        let output = try await shell.run(setup + "\n" + script, step: name)
        try check(output, step: name)
        return output
    }

    private func check(_ output: RemoteShell.Output, step: String) throws(SignalError) {
        guard output.status != 0 else { return }
        let reason = output.values["error"] ?? output.lines.suffix(3).joined(separator: " ")
        let text = reason.isEmpty ? "it ended with status \(output.status)" : Printable.clean(reason, limit: 400)
        throw SignalError(.refused, "\(shell.name): \(step): \(text)")
    }

    /// Pieces that are large enough to cost little and small enough for a smooth progress bar.
    private struct Chunks: UploadSequence {
        let bytes: [UInt8]
        var position = 0

        mutating func next() -> [UInt8]? {
            guard position < bytes.count else { return nil }
            let end = min(position + 128 << 10, bytes.count)
            defer { position = end }
            return Array(bytes[position..<end])
        }
    }
}
