import CLinux
import Glibc
import MeshIdentity
import Platform
package import SSHSignal

/// A password in a file that only its owner can read: for logins where nobody can be asked.
package struct PasswordFile: Sendable {
    private let password: Passphrase
    private let path: String

    /// - Throws: ``SSHConfigurationError`` where the file is missing, empty, or open to others.
    package init(_ path: String) throws(SSHConfigurationError) {
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw SSHConfigurationError(file: path, "cannot be read: \(String(cString: strerror(errno)))")
        }
        guard status.st_mode & 0o077 == 0, status.st_uid == getuid() || status.st_uid == 0 else {
            throw SSHConfigurationError(file: path, "others can read the password in it (chmod 600 \(path))")
        }
        do throws(IdentityError) {
            password = try Passphrase(file: path)
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
