internal import CAESGCM
internal import COpenSSL
internal import Glibc

/// The AES-GCM of our TLS connections: OpenSSL's, or on a processor with VAES an OpenSSL provider of ours (`CAESGCM`),
/// more than twice as fast.
///
/// The provider lives in a library context of its own (OSSL_LIB_CTX(3)), which only our `SSL_CTX`s use. Whatever else
/// in the process calls OpenSSL has the default one, in which nothing changes. docs/dependencies.md has the reasons.
// Sendable: immutable. OpenSSL's library contexts are made for use by all threads.
package final class AESGCM: @unchecked Sendable {
    /// What a processor has, best last.
    package enum Processor: Int32, CaseIterable, Sendable {
        case avx2 = 1
        case avx512 = 2

        var name: String { self == .avx2 ? "VAES, AVX2" : "VAES, AVX-512" }
    }

    package enum Choice: Hashable, Sendable {
        case ours(Processor)
        /// OpenSSL's own, and why.
        case openSSL(String)
    }

    /// What the choice depends on.
    struct Situation {
        /// Of ``AESGCM/variable``.
        var setting: String?
        var processor: Processor?
        /// Whether OpenSSL 3.1 and later have code of their own for this processor.
        var isServedByNewOpenSSL: Bool
        /// As `OPENSSL_VERSION_NUMBER` has it.
        var version: UInt
        var isFIPS: Bool
        /// The provider that AES-GCM comes from by OpenSSL's configuration, or one that it has loaded besides.
        var foreignProvider: String?
    }

    /// The environment variable that chooses: `auto`, `avx2` (no more than that) or `openssl`.
    package static let variable = "BOOTSTRAP_AES_GCM"

    /// What new TLS contexts use. Chosen, tested and loaded once, at the first use.
    package static let ofThisProcess: AESGCM = {
        switch choice(for: .ofThisProcess()) {
        case .openSSL(let reason): AESGCM(reason: reason)
        case .ours(let processor): AESGCM(processor) ?? AESGCM(reason: "the test of the faster one failed")
        }
    }()

    /// What runs: nil is OpenSSL's own.
    package let processor: Processor?
    /// Like `AES-GCM: VAES, AVX-512` or `AES-GCM: OpenSSL (no VAES)`, behind the name and version of libcrypto.
    package let description: String
    /// For `SSL_CTX_new_ex`: nil is the default one. Never freed: threads keep random generators in it.
    let library: OpaquePointer?
    private let provider: OpaquePointer?

    /// OpenSSL's own.
    init(reason: String) {
        processor = nil
        library = nil
        provider = nil
        description = "\(Self.libcrypto), AES-GCM: OpenSSL (\(reason))"
    }

    /// Ours; nil where it cannot be loaded or its test fails. To be made only where the processor has it.
    ///
    /// - Parameter random: What holds for random numbers in its library context.
    init?(_ processor: Processor, random: RandomSettings = .ofThisProcess()) {
        guard let library = OSSL_LIB_CTX_new() else { return nil }
        guard random.apply(to: library), let provider = caesgcm_load(library, processor.rawValue) else {
            OSSL_LIB_CTX_free(library)
            TLSErrorQueue.clear()
            return nil
        }
        self.processor = processor
        self.library = library
        self.provider = provider
        description = "\(Self.libcrypto), AES-GCM: built in (\(processor.name))"
    }

    /// How many keys it was given so far: four for the handshake of a connection and four for its data, both sides
    /// counted. 0 where OpenSSL's own runs.
    var keysSet: Int { provider.map { caesgcm_keys_set($0) } ?? 0 }

    /// Like `OpenSSL 3.0.17`: the library that runs, not the one that was compiled against.
    private static var libcrypto: String {
        String(cString: OpenSSL_version(OPENSSL_VERSION)).split(separator: " ").prefix(2).joined(separator: " ")
    }

    static func choice(for situation: Situation) -> Choice {
        var processor = situation.processor
        switch situation.setting {
        case nil, "", "auto": break
        case "avx2": processor = processor.map { _ in .avx2 }
        case "openssl": return .openSSL("\(variable)=openssl")
        case let other?: return .openSSL("\(variable)=\(other): not auto, avx2 or openssl")
        }
        if situation.isFIPS { return .openSSL("FIPS mode") }
        if let foreign = situation.foreignProvider { return .openSSL("its configuration has the provider \(foreign)") }
        guard let processor else { return .openSSL("no VAES") }
        if situation.isServedByNewOpenSSL && situation.version >= 0x3010_0000 { return .openSSL("VAES, AVX-512") }
        return .ours(processor)
    }
}

extension AESGCM.Situation {
    /// Providers that come with OpenSSL and change nothing of AES-GCM, and the one for libssh2.
    private static let known: Set = ["default", "base", "legacy", "null", "bootstrap-keystream"]

    static func ofThisProcess() -> AESGCM.Situation {
        // Reads openssl.cnf, as the first SSL_CTX would.
        OPENSSL_init_ssl(0, nil)
        let mask = getenv("OPENSSL_ia32cap")
        return AESGCM.Situation(
            setting: getenv(AESGCM.variable).map { String(cString: $0) },
            processor: AESGCM.Processor(rawValue: caesgcm_processor(mask)),
            isServedByNewOpenSSL: caesgcm_openssl_has_avx512(mask) != 0,
            version: UInt(OpenSSL_version_num()),
            isFIPS: EVP_default_properties_is_fips_enabled(nil) != 0,
            foreignProvider: foreignProvider()
        )
    }

    /// A provider that the configuration has chosen for AES-GCM, or that may have been meant for it.
    private static func foreignProvider() -> String? {
        final class Names { var found: [String] = [] }
        let names = Names()
        OSSL_PROVIDER_do_all(
            nil,
            { provider, context in
                guard let provider, let name = OSSL_PROVIDER_get0_name(provider), let context else { return 1 }
                Unmanaged<Names>.fromOpaque(context).takeUnretainedValue().found.append(String(cString: name))
                return 1
            },
            Unmanaged.passUnretained(names).toOpaque()
        )
        if let foreign = names.found.first(where: { !known.contains($0) }) { return foreign }
        guard let cipher = EVP_CIPHER_fetch(nil, "AES-128-GCM", nil) else { return "none" }
        defer { EVP_CIPHER_free(cipher) }
        let name = String(cString: OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cipher)))
        return name == "default" ? nil : name
    }
}
