package import Logging
package import MeshIdentity
import Platform
import SSHSignal

/// The issuer's own place in the mesh.
package struct IssuerCredential: Sendable {
    private let authority: LiveCA
    package let directory: CredentialDirectory

    package init(of authority: LiveCA, in directory: CredentialDirectory) {
        self.authority = authority
        self.directory = directory
    }

    /// Those that it has from before, in PEM form; nil without any.
    package var revocationLists: [UInt8]? {
        let lists = (try? directory.load())?.bundle.revocations.pem ?? []
        return lists.isEmpty ? nil : lists
    }

    package func renew() throws(IdentityError) {
        let id: SPIFFEID
        do throws(SPIFFEIDError) {
            id = try SPIFFEID(
                trustDomain: authority.trustDomain,
                namespace: IssuerName.namespace,
                name: IssuerName.name
            )
        } catch {
            throw IdentityError(.refused, error.message)
        }
        let pending = try directory.prepare(id: id)
        let options = try authority.present().optionsForAnyClock()
        let issued = try authority.sign(pending.request, id: id, options: options)
        _ = try pending.commit(
            chain: issued.chain,
            roots: issued.roots,
            revocationLists: issued.revocationLists
        )
    }

    /// Until the task is cancelled: a new certificate when it is due, and what was revoked meanwhile.
    package func keepFresh(_ logger: Logger) async {
        var said: String?
        while (try? await Task.sleep(for: .seconds(2))) != nil {
            // The next look is in two seconds: what is said once stays said until it is something else.
            do throws(IdentityError) {
                let remark = try refresh()
                if let remark, remark != said { logger.warning("\(remark)") }
                said = remark
            } catch {
                let problem = "the issuer's own credential: \(error)"
                if problem != said { logger.error("\(problem)") }
                said = problem
            }
        }
    }

    /// - Returns: What is to be said of the list that goes with it; nil when there is nothing.
    private func refresh() throws(IdentityError) -> String? {
        let credential = try directory.load()
        let schedule = RenewalSchedule(
            notBefore: credential.notBefore,
            notAfter: credential.notAfter,
            random: 0.5
        )
        // A device whose certificate a new root vouches for must find an issuer that knows the root.
        let hasRoots = Set(credential.bundle.roots) == Set(try authority.roots())
        if schedule.wait(at: WallClock.system.seconds) == 0 || !hasRoots { try renew() }
        guard let lists = try authority.present().revocationLists() else { return nil }
        // An earlier copy of the CA's directory was put back, or a clock is wrong.
        let remark = directory.remark(on: lists)
        do throws(IdentityError) {
            try directory.write(revocationLists: lists)
        } catch {
            guard remark != nil, error.code == .refused else { throw error }
        }
        return remark
    }
}
