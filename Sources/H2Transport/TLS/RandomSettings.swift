internal import COpenSSL

/// The section `random` of openssl.cnf (config(5)): which random generator there is, and where its seed comes from.
///
/// OpenSSL reads that file for its default library context. To load it for another one would run all of its sections
/// once more, also those about what a process has once: OIDs, which are refused the second time, and engines. So this
/// one, which is about a context, is read, and told to it.
struct RandomSettings: Hashable, Sendable {
    /// Like `CTR-DRBG`; nil, as for each of them: OpenSSL's choice.
    var generator: String?
    var cipher: String?
    var digest: String?
    var properties: String?
    var seed: String?
    var seedProperties: String?

    /// Nothing is set.
    init() {}

    /// Those of the file that OpenSSL reads by itself.
    static func ofThisProcess() -> RandomSettings {
        guard let file = CONF_get1_default_config_file() else { return RandomSettings() }
        defer { CRYPTO_free(file, nil, 0) }
        return RandomSettings(file: String(cString: file))
    }

    /// Nothing is set where there is no such file, or no such section.
    init(file: String) {
        defer { TLSErrorQueue.clear() }
        guard let configuration = NCONF_new(nil) else { return }
        defer { NCONF_free(configuration) }
        var line = 0
        guard NCONF_load(configuration, file, &line) > 0 else { return }
        // NCONF_get_string(3) would look into the default section, too, where something is missing.
        func entries(of section: String) -> [String: String] {
            var entries: [String: String] = [:]
            guard let list = NCONF_get_section(configuration, section) else { return entries }
            for index in 0..<OPENSSL_sk_num(list) {
                guard let entry = OPENSSL_sk_value(list, index)?.assumingMemoryBound(to: CONF_VALUE.self).pointee,
                    let name = entry.name, let value = entry.value
                else { continue }
                entries[String(cString: name).lowercased()] = String(cString: value)
            }
            return entries
        }
        guard let start = NCONF_get_string(configuration, nil, "openssl_conf"),
            let section = entries(of: String(cString: start))["random"]
        else { return }
        let values = entries(of: section)
        generator = values["random"]
        cipher = values["cipher"]
        digest = values["digest"]
        properties = values["properties"]
        seed = values["seed"]
        seedProperties = values["seed_properties"]
    }

    /// - Parameter library: A library context that has made no random number yet.
    /// - Returns: Whether it has them now.
    func apply(to library: OpaquePointer) -> Bool {
        guard self != RandomSettings() else { return true }
        return RAND_set_DRBG_type(library, generator, properties, cipher, digest) == 1
            && RAND_set_seed_source_type(library, seed, seedProperties) == 1
    }
}
