#!/bin/sh
# Asks the server where it really listens, which the command line of PID 1 says; a fixed port would lie.
set -euf
host=127.0.0.1
port={{ server_port }}
previous=
for word in $(tr "\0" "\n" </proc/1/cmdline); do
    case $previous in
        --host) host=$word ;;
        --port) port=$word ;;
    esac
    case $word in
        --host=*) host=${word#--host=} ;;
        --port=*) port=${word#--port=} ;;
    esac
    previous=$word
done
case $host in
    0.0.0.0) host=127.0.0.1 ;;
    ::) host="[::1]" ;;
    *:*) host="[$host]" ;;
esac
exec curl -fsS -o /dev/null --max-time 4 "http://$host:$port/health"
