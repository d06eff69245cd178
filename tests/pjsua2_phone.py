"""An independent telephone: PJSIP places one call, records what it hears, and prints one line of JSON.

    python -m tests.pjsua2_phone URI RECORD.wav SECONDS
        [--header NAME=VALUE] [--ca FILE] [--do "SECONDS ACTION [ARGUMENT]"]

Actions, so many seconds after the answer: hold, resume, dtmf DIGITS, info DIGITS, transfer URI, consult URI (a second
call), join (transfer the first call to the one of the second), hangup.
The transport is that of the URI; with TLS the server has to have a certificate of the CA in FILE.
Runs in a process of its own, because PJSIP has global state and threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import pjsua2 as pj


class Phone(pj.Call):
    """One call; what is heard goes into the recorder as soon as there is media."""

    def __init__(self, account: pj.Account, recorder: pj.AudioMediaRecorder) -> None:
        super().__init__(account)
        self.account = account
        self.consulted: Phone | None = None
        self.recorder = recorder
        self.over = False
        self.answered_at: float | None = None
        self.facts: dict[str, object] = {"answered": False, "transfer": []}

    def onCallState(self, prm: pj.OnCallStateParam) -> None:
        info = self.getInfo()
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED:
            self.facts["answered"] = True
            self.answered_at = time.monotonic()
        if info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self.facts |= {"status": info.lastStatusCode, "seconds": info.connectDuration.sec}
            self.over = True

    def onCallMediaState(self, prm: pj.OnCallMediaStateParam) -> None:
        info = self.getInfo()  # owns what it lists
        for index, media in enumerate(info.media):
            if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                self.getAudioMedia(index).startTransmit(self.recorder)

    def onCallTransferStatus(self, prm: pj.OnCallTransferStatusParam) -> None:
        progress = self.facts["transfer"]
        assert isinstance(progress, list)
        progress.append(prm.statusCode)

    def act(self, action: str, argument: str) -> None:
        """Do one of the actions."""
        order = pj.CallOpParam(True)
        if action == "hold":
            self.setHold(order)
        elif action == "resume":
            order.opt.flag = pj.PJSUA_CALL_UNHOLD
            self.reinvite(order)
        elif action == "dtmf":
            self.dialDtmf(argument)
        elif action == "info":
            digits = pj.CallSendDtmfParam()
            digits.digits = argument
            digits.method = pj.PJSUA_DTMF_METHOD_SIP_INFO
            self.sendDtmf(digits)
        elif action == "transfer":
            self.xfer(argument, order)
        elif action == "consult":
            self.consulted = Phone(self.account, self.recorder)
            self.consulted.makeCall(argument, order)
        elif action == "join":
            assert self.consulted is not None
            self.xferReplaces(self.consulted, order)
        elif action == "hangup":
            self.hangup(order)
        else:
            raise ValueError(f"no such action: {action}")

    def onStreamDestroyed(self, prm: pj.OnStreamDestroyedParam) -> None:
        rx = self.getStreamStat(prm.streamIdx).rtcp.rxStat
        self.facts |= {"packets": rx.pkt, "lost": rx.loss, "reordered": rx.reorder, "duplicates": rx.dup}


def main(arguments: argparse.Namespace) -> int:
    config = pj.EpConfig()
    config.logConfig.level = 0
    config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    config.medConfig.clockRate = 8000
    config.medConfig.noVad = True
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.boundAddress = transport.publicAddress = "127.0.0.1"
    kind = pj.PJSIP_TRANSPORT_UDP
    if ";transport=tcp" in arguments.uri:
        kind = pj.PJSIP_TRANSPORT_TCP
    elif ";transport=tls" in arguments.uri:
        kind = pj.PJSIP_TRANSPORT_TLS
        transport.tlsConfig.CaListFile = arguments.ca
        transport.tlsConfig.verifyServer = True
    endpoint.transportCreate(kind, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    settings = pj.AccountConfig()
    settings.idUri = "sip:pjsip@127.0.0.1"
    settings.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    account = pj.Account()
    account.create(settings)
    recorder = pj.AudioMediaRecorder()
    recorder.createRecorder(arguments.record)
    phone = Phone(account, recorder)
    order = pj.CallOpParam(True)
    for header in arguments.header:
        line = pj.SipHeader()
        line.hName, line.hValue = header.split("=", 1)
        order.txOption.headers.append(line)
    todo = [(float(words[0]), words[1], "".join(words[2:])) for words in (text.split(" ", 2) for text in arguments.do)]
    phone.makeCall(arguments.uri, order)
    end = time.monotonic() + arguments.seconds
    while not phone.over and time.monotonic() < end:
        endpoint.libHandleEvents(20)
        while todo and phone.answered_at and time.monotonic() - phone.answered_at >= todo[0][0] and not phone.over:
            _, action, argument = todo.pop(0)
            phone.act(action, argument)
    if not phone.over:
        phone.hangup(pj.CallOpParam())
        while not phone.over and time.monotonic() < end + 5:
            endpoint.libHandleEvents(20)
    sys.stdout.write(json.dumps(phone.facts) + "\n")
    # In this order: the recorder completes its file when it goes, and nothing may outlive the library.
    phone.recorder = None
    phone.consulted = None
    del recorder
    del phone
    account.shutdown()
    del account
    endpoint.libDestroy()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("record")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--ca", default="")
    parser.add_argument("--do", action="append", default=[])
    sys.exit(main(parser.parse_args()))
