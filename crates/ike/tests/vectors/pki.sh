#!/bin/sh
# Writes pki/: certificates and signatures of OpenSSL, which crates/ike has to accept. The keys are
# used nowhere else.
set -eu
cd "$(dirname "$0")"
rm -rf pki && mkdir pki && cd pki

authority() { # name, key options
    name=$1; shift
    openssl genpkey -quiet "$@" -out "$name.key"
    openssl req -x509 -new -key "$name.key" -sha384 -days 36500 -subj "/O=Test/CN=$name" -out "$name.pem" \
        -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign
}

issue() { # name, authority, extensions file, key options
    name=$1; by=$2; extensions=$3; shift 3
    openssl genpkey -quiet "$@" -out "$name.key"
    openssl req -new -key "$name.key" -subj "/O=Test/CN=$name" -out "$name.csr"
    openssl x509 -req -in "$name.csr" -CA "$by.pem" -CAkey "$by.key" -sha384 -days 36500 \
        -extfile "$extensions" -out "$name.pem"
    rm "$name.csr"
}

cat > ca.ext <<EOF
basicConstraints = critical,CA:true,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
EOF
cat > end.ext <<EOF
basicConstraints = critical,CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = ipsecIKE,serverAuth
subjectAltName = DNS:n3iwf.example.net,IP:192.0.2.1,IP:2001:db8::1,email:n3iwf@example.net
EOF

authority root -algorithm EC -pkeyopt ec_paramgen_curve:P-384
issue sub root ca.ext -algorithm EC -pkeyopt ec_paramgen_curve:P-256
issue p256 sub end.ext -algorithm EC -pkeyopt ec_paramgen_curve:P-256
issue p384 sub end.ext -algorithm EC -pkeyopt ec_paramgen_curve:P-384
issue p521 sub end.ext -algorithm EC -pkeyopt ec_paramgen_curve:P-521
issue ed25519 sub end.ext -algorithm ED25519
issue rsa sub end.ext -algorithm RSA -pkeyopt rsa_keygen_bits:2048
openssl ec -in p256.key -out p256-sec1.key 2>/dev/null
openssl x509 -in root.pem -noout -subject -nameopt RFC2253 >/dev/null
rm ca.ext end.ext root.key sub.key

printf 'what both ends have seen of each other' > signed
sign() { openssl dgst -binary "$@" signed; }
for key in p256 p384 p521; do
    for hash in 256 384 512; do
        sign -sha$hash -sign $key.key > $key-sha$hash.sig
    done
done
for hash in 256 384 512; do
    sign -sha$hash -sign rsa.key > rsa-sha$hash.sig
    sign -sha$hash -sign rsa.key -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest > rsa-pss$hash.sig
done
sign -sha256 -sign rsa.key -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20 > rsa-pss256-salt20.sig
sign -sha1 -sign rsa.key > rsa-sha1.sig
openssl pkeyutl -sign -rawin -in signed -inkey ed25519.key -out ed25519.sig
