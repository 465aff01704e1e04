import ArgumentParser
import MeshIdentity

struct CABundle: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bundle",
        abstract: "Print the roots of the trust domain in PEM form.",
        discussion: """
            This is what others need to verify this mesh's identities; nothing in it is secret. The CA's key is not touched.

              bootstrap ca bundle > root-cert.pem
            """
    )

    @OptionGroup var location: CALocation

    @OptionGroup var messages: MessageOptions

    func run() async throws {
        let bundle: TrustBundle
        do throws(IdentityError) {
            bundle = try EmbeddedCA.bundle(directory: location.path)
        } catch {
            throw fail(error)
        }
        guard writeStandardOutput(bundle.pem) else { throw fail("stdout cannot be written") }
    }
}
