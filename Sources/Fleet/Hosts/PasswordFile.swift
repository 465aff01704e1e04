import MeshIdentity
import Platform
package import SSHSignal

/// A password in a file that only its owner can read: for logins where nobody can be asked.
package struct PasswordFile: Sendable {
    private let password: Passphrase
    private let path: String

    /// - Throws: ``SSHConfigurationError`` where the file is missing, empty, or open to others.
    package init(_ path: String) throws(SSHConfigurationError) {
        do throws(IdentityError) {
            password = try Passphrase(file: path, called: "password", isOwn: true)
        } catch {
            throw SSHConfigurationError(file: path, error.message)
        }
        self.path = path
    }

    /// Answers the destination's question for the password, once for each connection: the same wrong password is not
    /// sent twice. Other questions (a one-time code, those of a jump host) go to `other`.
    package func prompt(else other: AuthenticationPrompt?) -> AuthenticationPrompt {
        { question in
            if question.isForPassword, question.isFromDestination {
                guard question.attempt == 1 else { return nil }
                return password.withBytes { Array($0) }
            }
            return await other?(question)
        }
    }
}
