import Platform
import SSHSignal

/// What a machine without an agent is told: make a key and a request with its own OpenSSL, take a certificate. Its
/// files are those of ``MeshIdentity/CredentialDirectory``, which change together:
///
///     DIR/key.pem, cert-chain.pem, root-cert.pem -> ..data/…      links that never change
///     DIR/..data -> ..version-NONCE                               replaced by a rename: the moment of change
enum AgentlessScript {
    /// - Parameter directory: absolute.
    static func setup(directory: String, version: String) -> String {
        """
        export LC_ALL=C
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        umask 077
        dir=\(ShellScript.quote(directory))
        version=\(ShellScript.quote("..version-" + version))
        new="$dir/$version"
        refuse() { rm -rf "$new"; echo "error=$1"; exit 1; }
        """
    }

    /// Refuses a directory, for root, in which others can put something of theirs into the place of what is written: a
    /// link, that leads anywhere.
    static func check(directory: String) -> String {
        """
        export LC_ALL=C
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        \(StrictDirectories.functions)
        [ "$(id -u)" = 0 ] || exit 0
        why=$(foreign "$(nearest \(ShellScript.quote(directory)))")
        [ -z "$why" ] || { echo "error=$why"; exit 1; }
        """
    }

    /// Makes the directory of the new version, and removes those of runs that were cut.
    private static let prepare = """
        used=$(readlink "$dir/..data" 2>/dev/null)
        for d in "$dir"/..version-*; do
          [ -d "$d" ] && [ "${d##*/}" != "$used" ] && rm -rf "$d"
        done
        why=$(mkdir "$new" 2>&1) || refuse "$new cannot be made: $why"
        """

    /// Makes key and request; the request goes to standard output. A configuration, because `req -addext` came with
    /// OpenSSL 1.1.1; nothing in it is secret, and the key never leaves its file.
    static func request(id: String) -> String {
        """
        \(prepare)
        why=$( { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -pkeyopt ec_param_enc:named_curve -out "$new/key.pem" \\
          || openssl ecparam -name prime256v1 -genkey -noout -out "$new/key.pem"; } 2>&1 )
        [ -s "$new/key.pem" ] || refuse "openssl makes no key: $why"
        chmod 600 "$new/key.pem"
        cat >"$new/request.cnf" <<'END' || refuse "$new/request.cnf cannot be written"
        [req]
        distinguished_name = name
        req_extensions = extensions
        prompt = no
        [name]
        [extensions]
        subjectAltName = critical, URI:\(id)
        END
        why=$(openssl req -new -sha256 -key "$new/key.pem" -subj / -config "$new/request.cnf" -out "$new/request.pem" 2>&1)
        [ -s "$new/request.pem" ] || refuse "openssl makes no certificate request: $why"
        while IFS= read -r line; do echo "csr:$line"; done <"$new/request.pem"
        rm -f "$new/request.cnf" "$new/request.pem"
        """
    }

    /// Takes the key from standard input, byte by byte where there is no `head -c`: not one more is read.
    static func receiveKey(length: Int) -> String {
        """
        \(prepare)
        why=$( { : >"$new/key.pem" && chmod 600 "$new/key.pem"; } 2>&1 ) || refuse "$new/key.pem cannot be made: $why"
        echo "$ready"
        if [ "$(printf ab | head -c 1 2>/dev/null)" = a ]; then head -c \(length) >"$new/key.pem"; else dd bs=1 count=\(length) of="$new/key.pem" 2>/dev/null; fi
        [ "$(wc -c <"$new/key.pem")" -eq \(length) ] || refuse "the key did not arrive whole, or cannot be written"
        """
    }

    /// Puts the certificate beside the key, and both in place.
    static func install(chain: String, roots: String) -> String {
        """
        [ -s "$new/key.pem" ] || refuse "the key is gone: another enrolment may have begun"
        write() {
          printf '%s' "$2" >"$new/$1" 2>/dev/null && [ "$(wc -c <"$new/$1")" -eq "$3" ] && chmod 644 "$new/$1" \\
            || refuse "$new/$1 cannot be written (disk full?)"
        }
        write cert-chain.pem \(ShellScript.quote(chain)) \(chain.utf8.count)
        write root-cert.pem \(ShellScript.quote(roots)) \(roots.utf8.count)
        swap() {
          rm -f "$dir"/.link.*
          ln -s "$1" "$dir/.link.$$" || refuse "a link cannot be made in $dir"
          mv -Tf "$dir/.link.$$" "$dir/$2" 2>/dev/null || { rm -f "$dir/$2" && mv -f "$dir/.link.$$" "$dir/$2"; } || refuse "$dir/$2 cannot be replaced"
        }
        swap "$version" ..data
        for f in cert-chain.pem root-cert.pem key.pem; do
          [ "$(readlink "$dir/$f" 2>/dev/null)" = "..data/$f" ] || swap "..data/$f" "$f"
        done
        for d in "$dir"/..version-*; do [ "$d" = "$new" ] || rm -rf "$d"; done
        true
        """
    }

    /// Runs what the user wants run, with the directory in `$BOOTSTRAP_CREDENTIALS`.
    static func after(_ command: String, directory: String) -> String {
        """
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        export BOOTSTRAP_CREDENTIALS=\(ShellScript.quote(directory))
        exec 2>&1
        # Not as an argument of a shell of its own: everybody there can read those.
        eval \(ShellScript.quote(command))
        """
    }

    /// Takes away what ``install(chain:roots:)`` made. It says `removed=PATH` and `left=PATH`.
    static func remove(directory: String) -> String {
        """
        dir=\(ShellScript.quote(directory))
        [ -d "$dir" ] || exit 0
        for f in key.pem cert-chain.pem root-cert.pem; do
          [ "$(readlink "$dir/$f" 2>/dev/null)" = "..data/$f" ] && rm -f "$dir/$f" && echo "removed=$dir/$f"
        done
        rm -rf "$dir"/..version-* "$dir/.lock" "$dir"/.lock.stale.* "$dir"/.link.*
        rm -f "$dir/..data"
        if rmdir "$dir" 2>/dev/null; then echo "removed=$dir"; else echo "left=$dir"; fi
        """
    }
}
