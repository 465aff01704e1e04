import ArgumentParser
import Fleet
import MeshIdentity
import Platform
import SSHSignal

struct CARotate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rotate",
        abstract: "Replace the CA's key and root, while every node goes on.",
        discussion: """
            Run it several times; each run does the step that can be done, and says what comes next:

              1. a new root is made, and given out with every certificate beside the old one: bootstrap renew --all
              2. once every device has it, the new key signs: bootstrap renew --all
              3. once every certificate of the old key has ended, its root is given out no more

            At no time does a node meet a certificate whose root it does not have. --status changes nothing.
            """
    )

    @Flag(help: "Say how far it is, and change nothing.")
    var status = false

    @Flag(help: "Take the next step although some have not followed: those that are named will be refused.")
    var force = false

    @OptionGroup var access: CAAccess

    @OptionGroup var messages: MessageOptions

    func run() async throws {
        let rotation = RootRotation(directory: access.location.path)
        let records = DeviceDirectory(Home.devices)
        do {
            switch rotation.phase {
            case .steady:
                if status { return printLine("No root is being replaced. `bootstrap ca rotate` begins it.") }
                let (authority, passphrase) = try access.loadWithPassphrase()
                let root = try rotation.begin(authority, passphrase: passphrase)
                printDone("Made a new root, SHA256 \(root.fingerprint)")
                printDone("It is given out from now on; the old key goes on signing.")
                printDone("Next: bootstrap renew --all    then bootstrap ca rotate")
            case .distributing:
                guard let root = try rotation.other() else { return }
                let waiting = try records.lacking(root)
                for line in waiting { printLine("lacks the new root: \(line)") }
                guard !status else {
                    return printLine(
                        waiting.isEmpty
                            ? "Everybody has the new root. Next: bootstrap ca rotate"
                            : "Next: bootstrap renew --all    then bootstrap ca rotate"
                    )
                }
                guard waiting.isEmpty || force else {
                    throw fail(
                        "\(waiting.count) do not have the new root yet and would refuse those who have new certificates: "
                            + "run `bootstrap renew --all`, then this again; --force leaves them behind"
                    )
                }
                try rotation.switchSigner()
                printDone("The new key signs from now on, SHA256 \(root.fingerprint)")
                printDone(
                    "Next: bootstrap renew --all    then, when the old certificates have ended, bootstrap ca rotate"
                )
            case .retiring:
                guard let root = try rotation.other() else { return }
                let last = try records.ledger.lastEnd(ofCertificatesBy: root.subjectKeyIdentifier ?? "")
                let isOver = last.map { $0 <= WallClock.system.seconds } ?? true
                guard !status else {
                    return printLine(
                        isOver
                            ? "Every certificate of the old key has ended. Next: bootstrap ca rotate"
                            : "The old root is needed until \(describe(time: last ?? 0)). Then: bootstrap ca rotate"
                    )
                }
                guard isOver || force else {
                    throw fail(
                        "certificates of the old key are valid until \(describe(time: last ?? 0)), and would be refused "
                            + "without its root: run this again then; --force does it now"
                    )
                }
                try rotation.finish()
                printDone("The old root is given out no more, and its key is removed.")
                printDone("Devices forget it with their next renewal.")
            }
        } catch let error as IdentityError {
            throw fail(error)
        } catch let error as LedgerError {
            throw fail(error.message)
        } catch let error as DeviceDirectoryError {
            throw fail(error.message)
        }
    }
}
